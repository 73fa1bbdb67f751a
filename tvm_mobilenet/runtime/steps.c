/* A run in its steps, for tools that check and measure: names, operands and times. */
#include "internal.h"

int mobilenet_steps(const mobilenet *m) { return m ? (int)mn_model.step_count : 0; }

const char *mobilenet_step_name(const mobilenet *m, int step) {
    return m && step >= 0 && step < (int)mn_model.step_count ? mn_model.steps[step].name : NULL;
}

void *mobilenet_operand(const mobilenet *instance, int step, int operand) {
    mobilenet *m = (mobilenet *)(uintptr_t)instance;
    if (step < 0 || step >= (int)mn_model.step_count || mn_enter(m)) return NULL;
    const mn_step *s = mn_model.steps + step;
    pthread_mutex_lock(&m->lock);
    void *data = operand >= 0 && operand < s->count ? m->tensors[s->first + operand].data : NULL;
    pthread_mutex_unlock(&m->lock);
    mn_leave(m);
    return data;
}

int mobilenet_times(mobilenet *m, int64_t *nanoseconds) {
    int code = mn_enter(m);
    if (code) return code;
    pthread_mutex_lock(&m->lock);
    m->times = nanoseconds;
    pthread_mutex_unlock(&m->lock);
    mn_leave(m);
    return 0;
}
