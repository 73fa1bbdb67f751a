/* The program's output: readable lines, or with --json one document on a line. */
#ifndef MOBILENET_REPORT_H
#define MOBILENET_REPORT_H

#include "mobilenet.h"

#define REPORT_SEEDED "weights are seeded random numbers: classes mean nothing; build with --weights FILE"

void report_classes(const mobilenet_info *info, const char *file, const mobilenet_class *best, int n, int json);
void report_times(const mobilenet_info *info, const double *sorted_milliseconds, int runs, int json);
void report_selftest(const mobilenet_info *info, const mobilenet_selftest_result *r, int passed, int json);
void report_info(const mobilenet_info *info, int json);

#endif
