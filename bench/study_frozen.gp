# Quality against the frozen layers. data: x, series, quality, low, high, cell. task: its name. out: the SVG.
set terminal svg size 720,440 font "sans,12" background rgb 'white'
set output out
set xlabel "frozen layers"
set ylabel "quality under secure computation, with its 95 % interval"
set title task
set grid
set offsets graph 0.05, graph 0.05, 0, 0
plot data using 1:($2 == 0 ? $3 : NaN):4:5 with yerrorbars pointtype 7 title "all weights", \
     data using 1:($2 == 1 ? $3 : NaN):4:5 with yerrorbars pointtype 5 title "LoRA, rank 64"
