/* A program of one's own that writes text with an exported model: embed DIRECTORY TEXT
 *
 *   cc embed.c -I cpp/include -L output/cpp -lglm -o embed
 */
#include <stdio.h>

#include "glm.h"

static int show(void *user, size_t index, const char *text, size_t size) {
    (void)user, (void)index;
    fwrite(text, 1, size, stdout);
    return fflush(stdout); /* 0 goes on */
}

static int write_answer(const glm_options *options, const char *question) {
    glm_model *model = NULL;
    int status = glm_open(options, &model);
    if (status == GLM_OK) status = glm_stream(model, options, question, show, NULL);
    glm_close(model);
    putchar('\n');
    return status;
}

int main(int count, char **words) {
    glm_options *options = glm_options_new();
    int status = GLM_USAGE;
    if (count != 3) {
        fprintf(stderr, "embed DIRECTORY TEXT\n");
    } else {
        status = glm_options_set(options, "model_path", words[1]);
        if (status == GLM_OK) status = glm_options_set(options, "tgt_length", "64");
        if (status == GLM_OK) status = write_answer(options, words[2]);
        if (status != GLM_OK) fprintf(stderr, "error: %s\n", glm_last_error());
    }
    glm_options_free(options);
    return status;
}
