/* A run in its steps, for tools that check and measure: names, operands and times. */
#include "internal.h"

int mobilenet_steps(const mobilenet *m) { return m ? (int)mn_model.step_count : 0; }

const char *mobilenet_step_name(const mobilenet *m, int step) {
    return m && step >= 0 && step < (int)mn_model.step_count ? mn_model.steps[step].name : NULL;
}

void *mobilenet_operand(const mobilenet *m, int step, int operand) {
    if (!m || step < 0 || step >= (int)mn_model.step_count) return NULL;
    const mn_step *s = mn_model.steps + step;
    return operand >= 0 && operand < s->count ? m->tensors[s->first + operand].data : NULL;
}

int mobilenet_times(mobilenet *m, int64_t *nanoseconds) {
    if (!m) return mn_fail(MOBILENET_ARGUMENT, "no instance");
    pthread_mutex_lock(&m->lock);
    m->times = nanoseconds;
    pthread_mutex_unlock(&m->lock);
    return 0;
}
