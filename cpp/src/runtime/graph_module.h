/* Between libglm and the module of a runtime whose interface is C++ (Paddle Inference, FastDeploy).
 *
 * A module is a shared library of its own, so that libglm needs no such runtime to start, and one that was built with
 * another C++ standard library does not matter: nothing but plain C crosses the border. Functions return 0, or 1 with a
 * reason in `error`.
 */
#ifndef GLM_GRAPH_MODULE_H
#define GLM_GRAPH_MODULE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GLM_GRAPH_VERSION 2
#define GLM_GRAPH_MOST_DIMENSIONS 8

typedef struct glm_graph glm_graph;

typedef struct glm_graph_error {
    char text[512];
} glm_graph_error;

typedef struct glm_graph_table {
    int version;        /* GLM_GRAPH_VERSION */
    const char *runtime; /* its name and version */
    int (*open)(const char *model_file, const char *params_file, int threads, glm_graph **graph,
                glm_graph_error *error);
    void (*close)(glm_graph *graph);
    /* Name and shape of an input or output by its place, -1 where a size is free; 1 without reason behind the last.
     * Null where a runtime does not tell. */
    int (*describe)(glm_graph *graph, int is_output, int place, const char **name, int *shape, int *rank,
                    glm_graph_error *error);
    /* Numbers are copied, or wanted until the next run. */
    int (*set_int64)(glm_graph *graph, const char *name, const int64_t *data, const int *shape, int rank,
                     glm_graph_error *error);
    int (*set_float)(glm_graph *graph, const char *name, const float *data, const int *shape, int rank,
                     glm_graph_error *error);
    int (*run)(glm_graph *graph, glm_graph_error *error);
    /* An output by its place, and how many numbers it has; valid until the next run. */
    int (*output)(glm_graph *graph, int place, const float **data, size_t *count, glm_graph_error *error);
} glm_graph_table;

/* What a module is asked for by name. */
typedef const glm_graph_table *(*glm_graph_module)(void);

#ifdef __cplusplus
}
#endif

#endif
