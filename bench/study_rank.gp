# Quality against the rank of the factors, half of the layers frozen. data: x, series, quality, low, high, cell. task: its name. out: the SVG.
set terminal svg size 720,440 font "sans,12" background rgb 'white'
set output out
set xlabel "rank of the factors, half of the layers frozen"
set ylabel "quality under secure computation, with its 95 % interval"
set title task
set grid
set offsets graph 0.05, graph 0.05, 0, 0
set logscale x 2
unset key
plot data using 1:3:4:5 with yerrorbars pointtype 7
