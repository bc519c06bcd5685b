/* curve.c - loss.svg: the two columns of losses of loss.csv, drawn plainly. */
#include "tune/run_record.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEFT = 60, TOP = 20, WIDE = 640, HIGH = 360, TICKS = 5, CSV_LIMIT = 1 << 28 };

typedef struct Frame { double steps, least, most; } Frame;

/* The next row of the file: its step, and its losses (NAN: none). Moves *at behind it; false at the end. */
static bool row_next(const char **at, double *step, double loss[2])
{
    const char *end = strchr(*at, '\n');
    if (!end) return false;
    const char *cell = *at;
    *step = strtod(cell, NULL);
    loss[0] = loss[1] = (double)NAN;
    for (int column = 0; cell && cell < end; column++) {
        if ((column == 3 || column == 4) && *cell != ',') loss[column - 3] = strtod(cell, NULL);
        cell = memchr(cell, ',', (size_t)(end - cell));
        if (cell) cell++;
    }
    *at = end + 1;
    return true;
}

static Frame frame_of(const char *rows)
{
    Frame f = {1, (double)INFINITY, -(double)INFINITY};
    double step, loss[2];
    while (row_next(&rows, &step, loss)) {
        f.steps = fmax(f.steps, step);
        for (int i = 0; i < 2; i++) {
            if (!isfinite(loss[i])) continue;
            f.least = fmin(f.least, loss[i]), f.most = fmax(f.most, loss[i]);
        }
    }
    if (!(f.least < f.most)) f.least = isfinite(f.least) ? f.least - 1 : 0, f.most = f.least + 2;
    return f;
}

static double across(const Frame *f, double step) { return LEFT + WIDE * step / f->steps; }
static double down(const Frame *f, double loss) { return TOP + HIGH * (f->most - loss) / (f->most - f->least); }

static void line_draw(Buffer *out, const Frame *f, const char *rows, int which, const char *colour)
{
    double step, loss[2];
    buffer_format(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", colour);
    while (row_next(&rows, &step, loss))
        if (isfinite(loss[which])) buffer_format(out, "%.1f,%.1f ", across(f, step), down(f, loss[which]));
    buffer_format(out, "\"/>\n");
}

static void frame_draw(Buffer *out, const Frame *f)
{
    buffer_format(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"#888\"/>\n", LEFT, TOP, WIDE, HIGH);
    for (int i = 0; i <= TICKS; i++) {
        double step = f->steps * i / TICKS, loss = f->least + (f->most - f->least) * i / TICKS;
        buffer_format(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>\n", across(f, step), TOP + HIGH + 18, step);
        buffer_format(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>\n", LEFT - 6, down(f, loss) + 4, loss);
    }
    buffer_format(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">steps</text>\n", LEFT + WIDE / 2, TOP + HIGH + 38);
    buffer_format(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" fill=\"#1f77b4\">training</text>\n", LEFT + WIDE - 8, TOP + 18);
    buffer_format(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" fill=\"#d62728\">held out</text>\n", LEFT + WIDE - 8, TOP + 36);
}

Result curve_draw(const char *csv_path, const char *svg_path)
{
    Buffer csv = {0}, out = {0};
    GUARD(file_read(&csv, csv_path, CSV_LIMIT));
    const char *rows = strchr((const char *)csv.data, '\n');
    rows = rows ? rows + 1 : "";
    Frame f = frame_of(rows);
    buffer_format(&out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n"
                  "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", LEFT + WIDE + 20, TOP + HIGH + 50);
    frame_draw(&out, &f);
    line_draw(&out, &f, rows, 0, "#1f77b4");
    line_draw(&out, &f, rows, 1, "#d62728");
    buffer_format(&out, "</svg>\n");
    Result r = file_write(svg_path, out.data, out.len, 0644);
    buffer_free(&out);
    buffer_free(&csv);
    return r;
}
