# Bytes of one token against the context. data, merged: context, three links. out: the SVG.
set terminal svg size 720,440 font "sans,12" background rgb 'white'
set output out
set key left top
set xlabel "context (tokens)"
set ylabel "MB a token"
set title "llama2-7b: bytes of a token, plan for the context"
set grid
plot data using 1:(($2+$3)/1e6) with linespoints title "all layers, LoRA: client and server", \
     data using 1:($4/1e6) with linespoints title "all layers, LoRA: third to server", \
     merged using 1:(($2+$3)/1e6) with linespoints title "half frozen, merged by 4: client and server", \
     merged using 1:($4/1e6) with linespoints title "half frozen, merged by 4: third to server"
