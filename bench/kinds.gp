# Where the client's time goes. data: a line of names, then a line a case: name, shares. last: the last column. what: the title. out: the SVG.
set terminal svg size 720,420 font "sans,12" background rgb 'white'
set linetype 9 linecolor rgb '#999999'
set output out
set style data histograms
set style histogram rowstacked
set style fill solid 0.8 border -1
set boxwidth 0.6
set key outside right
set yrange [0:100]
set ylabel "% of the client's online time"
set title what
plot for [i=2:last] data using (100*column(i)):xtic(1) title columnheader(i)
