# Bytes of one token against the context. data: context, three links. out: the SVG.
set terminal svg size 640,420 font "sans,12"
set output out
set key left top
set xlabel "context (tokens)"
set ylabel "MB a token"
set title "llama2-7b, all layers, LoRA of rank 64: bytes of a token"
set grid
plot data using 1:($2/1e6) with linespoints title "client to server", \
     data using 1:($3/1e6) with linespoints title "server to client", \
     data using 1:($4/1e6) with linespoints title "third to server"
