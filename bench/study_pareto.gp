# Quality against cost. data: seconds a token, series, quality, low, high, cell. task: its name. out: the SVG.
set terminal svg size 860,560 font "sans,11" background rgb 'white'
set output out
unset key
set logscale x
set xlabel "seconds a token, 3pc on a WAN"
set ylabel "quality under secure computation, with its 95 % interval"
set title task.": quality against cost"
set grid
set offsets graph 0.02, graph 0.15, 0, 0
plot data using 1:3:4:5 with yerrorbars pointtype 7, data using 1:3:6 with labels left offset 0.8,0.2 font "sans,9" noenhanced
