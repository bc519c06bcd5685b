/* study.h - private to app/: the rows of the study, and what is made from them. */
#ifndef MARILL_STUDY_H
#define MARILL_STUDY_H

#include "app/bench_report.h"

const char *study_score(const char *task);     // the score that a task's quality is: chrf, execution or constraints
double study_bytes(const Json *links);         // of all links of a bytes{}

// Arguments after the name.
CHECKED Result bench_study(int argc, char **argv);
CHECKED Result bench_same(int argc, char **argv);
CHECKED Result bench_study_report(int argc, char **argv);     // study_report.c, as those below
CHECKED Result bench_study_plot(int argc, char **argv);
CHECKED Result bench_study_large(int argc, char **argv);

#endif
