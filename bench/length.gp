# Seconds of a block against `what`. data: how many, seconds, seconds of the float forward. out: the SVG.
set terminal svg size 640,420 font "sans,12" background rgb 'white'
set output out
set key left top
set logscale xy
set xlabel what
set ylabel "seconds"
set title "GPT-2-small block, dealer"
set grid
plot data using 1:2 with linespoints title "secure, online", data using 1:3 with linespoints title "float forward"
