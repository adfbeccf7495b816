"""libglm by its C interface, where a program of one's own goes wrong."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from building import ROOT
from cpp_exports import make_export

from tests.huge_pages import needs_huge_pages

pytestmark = pytest.mark.long

# What each call gives, and the reason.
SOURCE = r"""
#include <glm.h>
#include <stdio.h>

static glm_model *model;
static glm_options *options;
static int inner = -1;

static int nothing(void *user, size_t index, const char *text, size_t size) { return 0; }

static int again(void *user, size_t index, const char *text, size_t size) {
    const char *texts[] = {"x"};
    if (inner < 0) inner = glm_generate(model, options, texts, 1, nothing, NULL);
    return 0;
}

static int no_ids(void *user, size_t index, const int32_t *ids, size_t count) { return 0; }

int main(int count, char **words) {
    const char *texts[] = {"你好", "a b", "c"};
    const int32_t *prompts[] = {NULL};
    const size_t sizes[] = {3};
    options = glm_options_new();
    glm_options_set(options, "model_path", words[1]);
    glm_options_set(options, "cpu_threads", "1");
    glm_options_set(options, "tgt_length", "6");
    if (glm_open(options, &model) != GLM_OK) return 1;
    int outer = glm_generate(model, options, texts, 3, again, NULL);
    printf("%d %d %s\n", outer, inner, glm_last_error());
    printf("%d\n", glm_generate(model, options, texts, 3, nothing, NULL));
    int missing = glm_generate_ids(model, options, prompts, sizes, 1, no_ids, NULL);
    printf("%d %s\n", missing, glm_last_error());
    glm_close(model);
    glm_options_free(options);
    return 0;
}
"""

# In a program whose numbers have a comma.
LOCALE = r"""
#include <glm.h>
#include <locale.h>
#include <stdio.h>

int main(int count, char **words) {
    if (setlocale(LC_ALL, "de_DE.UTF-8") == NULL) return 1;
    printf("%.1f\n", 0.5);
    glm_options *options = glm_options_new();
    printf("%d %d\n", glm_options_set(options, "top_p", "0.5"), glm_options_set(options, "kv_cache_size", "1.5GB"));
    printf("%d\n", glm_options_check(options));
    glm_options_set(options, "top_p", "1.5");
    int checked = glm_options_check(options);
    printf("%d %s\n", checked, glm_last_error());
    printf("%.1f\n", 0.5);
    glm_options_free(options);
    return count - 1;
}
"""

# What a thread of a tuned process holds, in MB, and how much of it in huge pages.
TUNED = r"""
#include <glm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *hold(void *size) { return memset(malloc((size_t)size), 1, (size_t)size); }

int main(int count, char **words) {
    glm_tune();
    pthread_t thread;
    void *held;
    pthread_create(&thread, NULL, hold, (void *)(64 << 20));
    pthread_join(thread, &held);
    long kilobytes = -1;
    char line[200];
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    while (fgets(line, sizeof line, file) && sscanf(line, "AnonHugePages: %ld", &kilobytes) != 1) continue;
    printf("%d %d\n", ((char *)held)[count], kilobytes > 32 << 10);
    return 0;
}
"""


def run_program(source: str, folder: Path, programs: Path, *words, **environment: str) -> list[str]:
    """Lines that a program in C prints."""
    (folder / "own.c").write_text(source, encoding="utf-8")
    flags = ["-I", ROOT / "cpp" / "include", "-L", programs, "-lglm", f"-Wl,-rpath,{programs}", "-Wall", "-Werror"]
    subprocess.run(["cc", "own.c", *flags, "-o", "own"], cwd=folder, check=True)
    run = subprocess.run(
        [folder / "own", *words], capture_output=True, text=True, timeout=60, env=os.environ | environment
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_a_program_whose_numbers_have_a_comma(tmp_path, programs):
    made = shutil.which("localedef") and Path("/usr/share/i18n/locales/de_DE").is_file()
    if not made:
        pytest.skip("no localedef with its sources here: apt-get install locales")
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"], check=True)
    assert run_program(LOCALE, tmp_path, programs, LOCPATH=str(tmp_path)) == [
        "0,5",
        "0 0",
        "0",
        "2 top_p is 1.5, and must be between 0 and 1",
        "0,5",
    ]


def test_wrong_calls(tmp_path, programs):
    """A callback that generates with its own model, after which the model goes on, and a prompt that is null."""
    export = make_export("glm4", tmp_path)
    assert run_program(SOURCE, tmp_path, programs, export) == [
        "0 2 a callback generates with the model that called it: return from it first",
        "0",
        "2 a prompt is null",
    ]


@needs_huge_pages
def test_a_tuned_process_has_huge_pages(tmp_path, programs):
    assert run_program(TUNED, tmp_path, programs) == ["1 1"]
    assert run_program(TUNED, tmp_path, programs, GLM_TUNE="Off") == ["1 0"]
    assert run_program(TUNED, tmp_path, programs, MALLOC_ARENA_MAX="2") == ["1 0"]


@needs_huge_pages
def test_glm_infer_tunes_its_process(tmp_path, programs):
    """With its model open it has addresses for as much as the machine has."""
    export, memory = make_export("glm4", tmp_path), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def reserved(**environment: str) -> int:
        words = [programs / "glm_infer", "--model_path", export, "--cpu_threads", "1", "--chat"]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(words, **pipes, env=os.environ | environment) as run:
            assert run.stderr.readline().startswith(b"backend: ")
            pages = int(Path(f"/proc/{run.pid}/statm").read_text().split()[0])
            run.communicate(timeout=60)
        return pages * os.sysconf("SC_PAGE_SIZE")

    assert reserved() > memory // 2 > reserved(GLM_TUNE="0")
