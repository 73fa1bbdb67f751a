/* Open, run, close. All arguments of all kernel calls are made at open; a run is a loop of calls. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

/* The arena's size with the scratch memory of a number of threads, which lies in parts that are free while a kernel
   runs. */
static size_t arena_bytes(int threads) {
    size_t most = (size_t)mn_model.arena_bytes;
    for (const mn_step *s = mn_model.steps, *end = s + mn_model.step_count; s < end; s++) {
        size_t n = (size_t)(s->scratch_at + s->scratch * (uint64_t)threads);
        most = n > most ? n : most;
    }
    return most;
}

/* Makes the arena large enough. */
static int place_arena(mobilenet *m, int threads) {
    const mn_model_t *d = &mn_model;
    size_t wanted = arena_bytes(threads);
    if (m->arena && wanted <= m->info.arena_bytes) return 0;
    char *arena = mn_allocate(wanted);
    if (!arena) return mn_fail(MOBILENET_MEMORY, "no memory for %zu bytes of arena", wanted);
    free(m->arena);
    m->arena = arena;
    m->info.arena_bytes = wanted;
    for (uint32_t i = 0; i < d->operand_count; i++)
        if (d->operands[i].space == MN_ARENA) m->tensors[i].data = arena + d->operands[i].offset;
    return 0;
}

static int place_operands(mobilenet *m, int threads) {
    const mn_model_t *d = &mn_model;
    m->tensors = calloc(d->operand_count + 1, sizeof *m->tensors);
    m->arguments = calloc(d->operand_count + 1, sizeof *m->arguments);
    m->port_buffers = calloc(d->inputs + d->outputs, sizeof *m->port_buffers);
    if (!m->tensors || !m->arguments || !m->port_buffers) return mn_fail(MOBILENET_MEMORY, "no memory for operands");
    for (uint32_t i = 0; i < d->inputs + d->outputs; i++)
        if (!(m->port_buffers[i] = mn_allocate(d->ports[i].bytes)))
            return mn_fail(MOBILENET_MEMORY, "no memory for %zu bytes of %s", d->ports[i].bytes, d->ports[i].name);
    for (uint32_t i = 0; i < d->operand_count; i++) {
        const mn_operand *o = &d->operands[i];
        void *data = o->space == MN_PARAMETERS ? (char *)m->files.weights + o->offset : NULL;
        m->tensors[i] = (mn_dltensor){data, 1, 0, o->ndim, o->code, o->bits, 1, o->dims, o->dims + o->ndim, 0};
        m->arguments[i] = (mn_any){7, 0, (uintptr_t)&m->tensors[i]};
    }
    return place_arena(m, threads);
}

/* A description that callers read never changes: another number of threads gets another description. All that were
 * needed are kept. */
static int describe(mobilenet *m) {
    mn_description *d = m->descriptions;
    while (d && (d->info.threads != m->info.threads || d->info.arena_bytes != m->info.arena_bytes)) d = d->next;
    if (!d) {
        if (!(d = malloc(sizeof *d))) return mn_fail(MOBILENET_MEMORY, "no memory for a description");
        *d = (mn_description){m->info, m->descriptions};
        m->descriptions = d;
    }
    atomic_store(&m->described, &d->info);
    return 0;
}

static const char *const scores_are[] = {"logits", "softmax", "sigmoid", "value"};

/* A folder, or weights alone. */
static int open_all(mobilenet *m, const char *folder, const char *weights, const mobilenet_options *o) {
    const mn_model_t *d = &mn_model;
    int code, threads = o->threads ? o->threads : mn_allowed_cpus();
    if (threads < 1 || threads > MN_MOST_THREADS || o->max_width < 0 || o->max_height < 0 ||
        o->max_width > 65535 || o->max_height > 65535)
        return mn_fail(MOBILENET_ARGUMENT, "threads must be 1 to %d, image sizes up to 65535", MN_MOST_THREADS);
    if ((code = mn_check_cpu())) return code;
    code = weights ? mn_files_open_weights(&m->files, weights, o->map_weights)
                   : mn_files_open(&m->files, folder, o->map_weights);
    if (code) return code;
    if (folder && !(m->folder = mn_absolute(folder))) return mn_fail(MOBILENET_MEMORY, "no memory");
    if ((code = place_operands(m, threads))) return code;
    if (d->image.wanted &&
        (code = mn_image_init(&m->image, o->max_width ? o->max_width : 8192, o->max_height ? o->max_height : 8192)))
        return code;
    if ((code = mn_pool_threads(&m->pool, threads))) return code;
    m->info = (mobilenet_info){d->model, d->target, d->id, (int)d->inputs, (int)d->outputs, d->ports,
                               d->ports + d->inputs, d->classes, (const char *const *)m->files.labels,
                               d->image.wanted, threads, d->parameter_bytes, m->info.arena_bytes, d->scratch_bytes,
                               d->seeded, scores_are[d->scores], d->preprocess, d->labels_source};
    return describe(m);
}

static void destroy(mobilenet *m) {
    mn_pool_close(&m->pool);
    mn_image_close(&m->image);
    mn_files_close(&m->files);
    for (uint32_t i = 0; m->port_buffers && i < mn_model.inputs + mn_model.outputs; i++) free(m->port_buffers[i]);
    for (mn_description *next; m->descriptions; m->descriptions = next) next = m->descriptions->next, free(m->descriptions);
    free(m->port_buffers);
    free(m->tensors);
    free(m->arguments);
    free(m->arena);
    free(m->folder);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static int open_new(const char *folder, const char *weights, const mobilenet_options *options, mobilenet **opened) {
    static const mobilenet_options defaults;
    if (!(folder || weights) || !opened)
        return mn_fail(MOBILENET_ARGUMENT, "no folder or weights, or nowhere to put the instance");
    *opened = NULL;
    mobilenet *m = calloc(1, sizeof *m);
    if (!m) return mn_fail(MOBILENET_MEMORY, "no memory");
    if (!options) options = &defaults;
    pthread_mutex_init(&m->lock, NULL);
    mn_pool_init(&m->pool, options->spin_microseconds, !options->no_affinity);
    mn_floats before = mn_floats_begin();
    int code = open_all(m, folder, weights, options);
    mn_floats_end(before);
    if (!code) code = mn_publish(m);
    if (code)
        destroy(m);
    else
        *opened = m;
    return code;
}

int mobilenet_open(const char *folder, const mobilenet_options *options, mobilenet **opened) {
    return open_new(folder, NULL, options, opened);
}

int mobilenet_open_weights(const char *weights, const mobilenet_options *options, mobilenet **opened) {
    return open_new(NULL, weights, options, opened);
}

void mobilenet_close(mobilenet *m) {
    if (mn_retire(m) && !m->torn) destroy(m); /* an instance that a fork interrupted is not usable */
}

const mobilenet_info *mobilenet_describe(const mobilenet *m) {
    if (mn_enter(m)) return NULL;
    const mobilenet_info *info = atomic_load(&m->described);
    mn_leave(m);
    return info;
}

/* Between these two only this caller uses the instance, with the default floating-point settings. */
static int end(mobilenet *m, mn_floats before, int code) {
    mn_floats_end(before);
    pthread_mutex_unlock(&m->lock);
    mn_leave(m);
    return code;
}

static int begin(mobilenet *m, mn_floats *before) {
    int code = mn_enter(m);
    if (code) return code;
    pthread_mutex_lock(&m->lock);
    *before = mn_floats_begin();
    if (atomic_load(&m->closing)) return end(m, *before, mn_fail(MOBILENET_CLOSED, "closed while this call waited"));
    return 0;
}

int mobilenet_set_threads(mobilenet *m, int threads) {
    mn_floats before;
    if (!m || threads < 1 || threads > MN_MOST_THREADS)
        return mn_fail(MOBILENET_ARGUMENT, "%d threads: 1 to %d", threads, MN_MOST_THREADS);
    int code = begin(m, &before);
    if (code) return code;
    atomic_store(&m->changing, 1);
    code = place_arena(m, threads);
    if (!code) code = mn_pool_threads(&m->pool, threads);
    m->info.threads = m->pool.threads;
    int described = describe(m);
    atomic_store(&m->changing, 0);
    return end(m, before, code ? code : described);
}

static int execute(mobilenet *m, uint32_t first, uint32_t last) {
    mn_worker *before = mn_current, *w = m->pool.workers;
    const mn_step *step = mn_model.steps + first, *end = mn_model.steps + last;
    int64_t *times = m->times ? m->times + first : NULL;
    mn_any result = {0, 0, 0};
    int code = 0;
    mn_pool_follow(&m->pool);
    mn_current = w;
    for (; step < end && !code; step++) {
        if (times) *times++ = mn_now();
        m->pool.scratch = m->arena + step->scratch_at;
        m->pool.scratch_bytes = (size_t)step->scratch;
        code = step->kernel(NULL, m->arguments + step->first, step->count, &result);
    }
    if (times) *times = mn_now();
    mn_current = before;
    if (!code) return 0;
    for (int i = 0; i < m->pool.threads; i++) m->pool.workers[i].used = 0, m->pool.workers[i].live = 0;
    return mn_fail(MOBILENET_KERNEL, "kernel %s failed: out of scratch memory", step[-1].name);
}

/* The i-th port's buffer for the kernels: the caller's, or our own. */
static void *aligned(const mobilenet *m, uint32_t i, const void *theirs) {
    return (uintptr_t)theirs % MN_ALIGNMENT ? m->port_buffers[i] : (void *)(uintptr_t)theirs;
}

static void place_ports(mobilenet *m, const void *const *inputs, void *const *outputs) {
    const mn_model_t *d = &mn_model;
    for (uint32_t i = 0; i < d->inputs; i++) {
        void *ours = aligned(m, i, inputs[i]);
        if (ours != inputs[i]) memcpy(ours, inputs[i], d->ports[i].bytes);
    }
    for (uint32_t i = 0; i < d->operand_count; i++) {
        const mn_operand *o = &d->operands[i];
        if (o->space > MN_OUTPUT) continue;
        m->tensors[i].data = o->space == MN_INPUT ? aligned(m, o->index, inputs[o->index])
                                                  : aligned(m, d->inputs + o->index, outputs[o->index]);
    }
}

/* Run steps on placed ports, and copy outputs to buffers that are not aligned. */
static int run_placed(mobilenet *m, void *const *outputs, uint32_t first, uint32_t last) {
    const mn_model_t *d = &mn_model;
    int code = execute(m, first, last);
    for (uint32_t i = 0; i < d->outputs && !code; i++) {
        void *ours = aligned(m, d->inputs + i, outputs[i]);
        if (ours != outputs[i]) memcpy(outputs[i], ours, d->ports[d->inputs + i].bytes);
    }
    return code;
}

static int check_outputs(const mobilenet *m, void *const *outputs) {
    int code = 0;
    for (uint32_t i = 0; i < mn_model.outputs && !code; i++)
        code = mn_check_output(i, aligned(m, mn_model.inputs + i, outputs[i]));
    return code;
}

static int check_buffers(const mobilenet *m, const void *const *inputs, void *const *outputs) {
    const mn_model_t *d = &mn_model;
    if (!m || !inputs || !outputs) return mn_fail(MOBILENET_ARGUMENT, "no instance, inputs or outputs");
    for (uint32_t i = 0; i < d->inputs + d->outputs; i++)
        if (!(i < d->inputs ? inputs[i] : outputs[i - d->inputs]))
            return mn_fail(MOBILENET_ARGUMENT, "no buffer for %s", d->ports[i].name);
    return 0;
}

int mobilenet_run(mobilenet *m, const void *const *inputs, void *const *outputs) {
    mn_floats before;
    int code = check_buffers(m, inputs, outputs);
    if (code || (code = begin(m, &before))) return code;
    if ((code = mn_pool_ready(&m->pool))) return end(m, before, code);
    place_ports(m, inputs, outputs);
    for (uint32_t i = 0; i < mn_model.inputs && !code; i++)
        code = mn_check_input(&m->pool, i, aligned(m, i, inputs[i]));
    if (!code) code = run_placed(m, outputs, 0, mn_model.step_count);
    if (!code) code = check_outputs(m, outputs);
    return end(m, before, code);
}

int mobilenet_run_steps(mobilenet *m, const void *const *inputs, void *const *outputs, int first, int last) {
    mn_floats before;
    int code = check_buffers(m, inputs, outputs);
    if (code) return code;
    if (first < 0 || last < first || last > (int)mn_model.step_count)
        return mn_fail(MOBILENET_ARGUMENT, "steps %d to %d of %d", first, last, (int)mn_model.step_count);
    if ((code = begin(m, &before))) return code;
    if ((code = mn_pool_ready(&m->pool))) return end(m, before, code);
    place_ports(m, inputs, outputs);
    return end(m, before, run_placed(m, outputs, (uint32_t)first, (uint32_t)last));
}

static const char no_images[] = "this model takes no images, but arrays: mobilenet_run";

int mobilenet_preprocess(mobilenet *m, const uint8_t *rgb, int width, int height, size_t stride, void *input) {
    mn_floats before;
    if (!m || !rgb || !input) return mn_fail(MOBILENET_ARGUMENT, "no instance, image or input");
    if (!mn_model.image.wanted) return mn_fail(MOBILENET_ARGUMENT, "%s", no_images);
    int code = begin(m, &before);
    if (code) return code;
    return end(m, before, mn_image_load(&m->image, rgb, width, height, stride, &mn_model.image.input, input));
}

int mobilenet_run_rgb(mobilenet *m, const uint8_t *rgb, int width, int height, size_t stride, void *scores) {
    mn_floats before;
    if (!m || !rgb || !scores) return mn_fail(MOBILENET_ARGUMENT, "no instance, image or place for the scores");
    if (!mn_model.image.wanted) return mn_fail(MOBILENET_ARGUMENT, "%s", no_images);
    if (mn_model.outputs != 1) return mn_fail(MOBILENET_ARGUMENT, "this model has several outputs: use mobilenet_run");
    int code = begin(m, &before);
    if (code) return code;
    const void *input = m->port_buffers[0];
    void *output = scores;
    const mn_pixels *to = &mn_model.image.input;
    void *into = m->port_buffers[0];
    uint32_t first = 0;
    if (mn_model.image.first.bytes) /* bytes become the first step's result for an input */
        to = &mn_model.image.first, into = m->tensors[mn_model.image.operand].data, first = 1;
    code = mn_pool_ready(&m->pool);
    if (!code) code = mn_image_load(&m->image, rgb, width, height, stride, to, into);
    place_ports(m, &input, &output);
    if (!code) code = run_placed(m, &output, first, mn_model.step_count);
    if (!code) code = check_outputs(m, &output);
    return end(m, before, code);
}
