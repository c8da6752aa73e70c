/* scene.h: one operation of any kind, with the sockets and files that it needs around it.
 *
 * A scene is set up so that its operation is done at once, has to wait until scene_fulfil, or
 * fails. Everything else happens on the same port, so each wait also sees completions that are not
 * the one it waits for; the owner of an operation counts how often it has ended. */
#ifndef IOCPCORE_TEST_SCENE_H
#define IOCPCORE_TEST_SCENE_H

#include "world.h"

#define LARGE ((size_t)12 << 20) /* more than a loopback connection takes without a reader */

typedef enum test_way { AT_ONCE, HAS_TO_WAIT, FAILS, WAYS } test_way;
/* One operation under test, with its surroundings. */
typedef struct test_scene {
    test_world world;
    io_kind kind;
    io_native native[3];
    bool is_file[3];
    io_handle *handle[3]; /* [0] has the operation; [1] is its peer */
    io_address address;   /* of native[0] or of whom it talks to */
    char *bytes;          /* LARGE, not to be changed */
    char received[64];
    int ended[64]; /* how often; operations have these as owners */
    int used;
} test_scene;

/* With a seed, the simulated backend is configured to do everything but fail. */
void scene_open(test_scene *scene, const char *backend, io_kind kind, uint64_t seed);
/* Takes what is left, checks that everything ended once, and closes all. */
void scene_close(test_scene *scene);
void scene_add(test_scene *scene, int place, io_native native, bool is_file);
void scene_set_up(test_scene *scene, test_way way);
io_op *scene_op(test_scene *scene, test_way way);
/* What lets an operation end that has to wait (or does not have to wait, if it comes first). */
void scene_fulfil(test_scene *scene);
bool scene_has_way(io_kind kind, test_way way);
bool scene_by_peer(io_kind kind); /* it is the peer that makes it end */

void scene_submit(test_scene *scene, io_op *op, int place);
/* Takes completions until this one is among them; its result. The others are released. */
int64_t scene_finish(test_scene *scene, io_op *op);
int64_t scene_end(test_scene *scene, io_op *op); /* and releases it too */
/* Receives exactly `total` bytes of scene->bytes, which `send` may complete meanwhile. */
void scene_read_all(test_scene *scene, io_op *send, size_t total);
void scene_take_rest(test_scene *scene);
void scene_check_ended(test_scene *scene);

#endif
