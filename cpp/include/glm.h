/* libglm: text generation with models that export_generation_model.py wrote, for programs in any language.
 *
 * Every function that can fail returns GLM_OK, GLM_ERROR or GLM_USAGE, which are the exit codes of the command line;
 * glm_last_error() then says why, in one line. No exception leaves the library. Texts are UTF-8. A model, and all that
 * was made of it, is used by one thread at a time. A callback that generates with the model that called it is refused.
 */
#ifndef GLM_H
#define GLM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define GLM_API __attribute__((visibility("default")))
#else
#define GLM_API
#endif

enum {
    GLM_OK = 0,
    GLM_ERROR = 1, /* a file, a prompt or a machine that does not do */
    GLM_USAGE = 2  /* a wrong option */
};

typedef struct glm_options glm_options;
typedef struct glm_model glm_model;
typedef struct glm_conversation glm_conversation;

/* What went wrong in the newest call of this thread that failed; valid until its next call that fails. */
GLM_API const char *glm_last_error(void);

/* Tunes the whole process, as glm_infer does, before a model is opened: glibc keeps what is freed, and the weights of
 * what is opened later lie in huge pages, which are read faster. For a program that ends when its work is done. What
 * MALLOC_…, GLIBC_TUNABLES or LD_PRELOAD choose stays, and GLM_TUNE=0 leaves all alone. */
GLM_API void glm_tune(void);

/* Options by the names of infer_generation.py's flags, without the dashes: "model_path", "temperature", "stop".
 * A flag without a value takes "true" or "false"; "stop" may be set several times. */
GLM_API glm_options *glm_options_new(void);
GLM_API void glm_options_free(glm_options *options);
GLM_API int glm_options_set(glm_options *options, const char *name, const char *value);

/* Whether the options fit together, as far as that can be said without a model. */
GLM_API int glm_options_check(const glm_options *options);

/* Opens the export that "model_path" and "model_prefix" name. What belongs to a model ("backend", "cpu_threads",
 * "src_length", "max_length", "kv_cache_size", "plain", "stop" …) is taken from the options here, how text is drawn
 * in each call. Meanwhile the process's environment has ORT_GQA_DISABLE_FLASH_ATTENTION for ONNX Runtime, where a
 * model has room for at most 4,096 tokens; and while the backend fastdeploy loads its graph, the working directory is
 * another. So a process opens one model at a time, and none of its threads changes the environment meanwhile. */
GLM_API int glm_open(const glm_options *options, glm_model **model);
GLM_API void glm_close(glm_model *model);

/* What runs it and why, in one line; and what there is to say of its memory so far. Valid until the next call. */
GLM_API const char *glm_backend(glm_model *model);
GLM_API const char *glm_notes(glm_model *model);

/* Is told text number `index` of a call, or a piece of it. Behind a piece anything but 0 ends the text; of whole texts
 * the answer is not asked. */
typedef int (*glm_on_text)(void *user, size_t index, const char *text, size_t size);

/* What follows each text, in batches of "batch_size"; a text is told when it is finished. */
GLM_API int glm_generate(glm_model *model, const glm_options *options, const char *const *texts, size_t count,
                         glm_on_text on_text, void *user);

/* What follows one text, in pieces, as soon as they are certain. */
GLM_API int glm_stream(glm_model *model, const glm_options *options, const char *text, glm_on_text on_text,
                       void *user);

/* The same for prompts that are ids already, the token to decode from last; what is told is ids. */
typedef int (*glm_on_ids)(void *user, size_t index, const int32_t *ids, size_t count);
GLM_API int glm_generate_ids(glm_model *model, const glm_options *options, const int32_t *const *prompts,
                             const size_t *sizes, size_t count, glm_on_ids on_ids, void *user);

/* The prompt that a text becomes, as ids: `count` says how many there are, and `capacity` of them are written. */
GLM_API int glm_prompt(glm_model *model, const char *text, int32_t *ids, size_t capacity, size_t *count);

/* How many tokens the newest call generated, end tokens included. */
GLM_API int64_t glm_generated_tokens(const glm_model *model);

/* A conversation; "system" of the options begins it. The model outlives it. */
GLM_API int glm_conversation_new(glm_model *model, const glm_options *options, glm_conversation **conversation);
GLM_API void glm_conversation_free(glm_conversation *conversation);

/* Pieces of the answer, as soon as they are certain; it is remembered, unless the callback ended it. Of models that
 * think (GLM-4.5 and those after it) pieces of thoughts have the index 1, and of what is said the index 0. */
GLM_API int glm_conversation_ask(glm_conversation *conversation, const char *question, glm_on_text on_text,
                                 void *user);

#ifdef __cplusplus
}
#endif

#endif
