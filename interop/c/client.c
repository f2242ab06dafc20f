/*
 * Apache's C client (libzookeeper_mt) against a server: client HOST:PORT.
 * Every call's answer is checked; the first wrong one ends the program with its line.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <zookeeper/zookeeper.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "client.c:%d: failed: %s\n", __LINE__, #condition);           \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)
#define CHECK_RC(wanted, call)                                                            \
    do {                                                                                  \
        int rc_ = (call);                                                                 \
        if (rc_ != (wanted)) {                                                            \
            fprintf(stderr, "client.c:%d: %s = %d (%s), wanted %d\n", __LINE__, #call, rc_, zerror(rc_), (wanted)); \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

enum { MAX_EVENTS = 64, WAIT_SECONDS = 20 };

struct seen {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int connected;
    int expired;
    int count;
    struct { int type; char path[128]; } events[MAX_EVENTS];
};

static void watcher(zhandle_t *zh, int type, int state, const char *path, void *context) {
    (void)zh;
    struct seen *seen = context;
    pthread_mutex_lock(&seen->lock);
    if (type == ZOO_SESSION_EVENT) {
        if (state == ZOO_CONNECTED_STATE) seen->connected = 1;
        if (state == ZOO_EXPIRED_SESSION_STATE) seen->expired = 1;
    } else if (seen->count < MAX_EVENTS) {
        seen->events[seen->count].type = type;
        snprintf(seen->events[seen->count].path, sizeof seen->events[0].path, "%s", path);
        seen->count++;
    }
    pthread_cond_broadcast(&seen->changed);
    pthread_mutex_unlock(&seen->lock);
}

static struct timespec deadline(void) {
    struct timeval now;
    gettimeofday(&now, NULL);
    return (struct timespec){.tv_sec = now.tv_sec + WAIT_SECONDS, .tv_nsec = now.tv_usec * 1000};
}

static void await_flag(struct seen *seen, const int *flag) {
    struct timespec until = deadline();
    pthread_mutex_lock(&seen->lock);
    while (!*flag) CHECK(pthread_cond_timedwait(&seen->changed, &seen->lock, &until) == 0);
    pthread_mutex_unlock(&seen->lock);
}

/* The event number `index` that this handle got is of this type and path. */
static void await_event(struct seen *seen, int index, int type, const char *path) {
    struct timespec until = deadline();
    pthread_mutex_lock(&seen->lock);
    while (seen->count <= index) CHECK(pthread_cond_timedwait(&seen->changed, &seen->lock, &until) == 0);
    if (seen->events[index].type != type || strcmp(seen->events[index].path, path) != 0) {
        fprintf(stderr, "client.c: event %d is %d %s, wanted %d %s\n", index, seen->events[index].type,
                seen->events[index].path, type, path);
        exit(1);
    }
    pthread_mutex_unlock(&seen->lock);
}

static zhandle_t *open_handle(const char *address, struct seen *seen, const clientid_t *id) {
    pthread_mutex_init(&seen->lock, NULL);
    pthread_cond_init(&seen->changed, NULL);
    zhandle_t *zh = zookeeper_init(address, watcher, 10000, id, seen, 0);
    CHECK(zh != NULL);
    await_flag(seen, &seen->connected);
    return zh;
}

struct completion { pthread_mutex_t lock; pthread_cond_t done; int answered, wrong, next; };

static void set_done(int rc, const struct Stat *stat, const void *context) {
    struct completion *all = (struct completion *)(uintptr_t)context;
    pthread_mutex_lock(&all->lock);
    /* Answers come in the order of the requests, so the version counts up. */
    if (rc != ZOK || stat->version != all->next++) all->wrong++;
    all->answered++;
    pthread_cond_signal(&all->done);
    pthread_mutex_unlock(&all->lock);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    zoo_set_debug_level(ZOO_LOG_LEVEL_ERROR);
    static struct seen seen, other_seen;
    char buffer[256], name[128], other_name[128];
    int length;
    struct Stat stat;
    zhandle_t *zh = open_handle(argv[1], &seen, NULL);

    /* create, get, set, exists, delete */
    CHECK_RC(ZOK, zoo_create(zh, "/c", "hello", 5, &ZOO_OPEN_ACL_UNSAFE, 0, name, sizeof name));
    CHECK(strcmp(name, "/c") == 0);
    CHECK_RC(ZNODEEXISTS, zoo_create(zh, "/c", "hello", 5, &ZOO_OPEN_ACL_UNSAFE, 0, name, sizeof name));
    length = sizeof buffer;
    CHECK_RC(ZOK, zoo_get(zh, "/c", 0, buffer, &length, &stat));
    CHECK(length == 5 && memcmp(buffer, "hello", 5) == 0 && stat.version == 0 && stat.dataLength == 5);
    CHECK_RC(ZOK, zoo_set2(zh, "/c", "world!", 6, 0, &stat));
    CHECK(stat.version == 1 && stat.mzxid > stat.czxid);
    CHECK_RC(ZBADVERSION, zoo_set(zh, "/c", "x", 1, 0));
    CHECK_RC(ZNONODE, zoo_exists(zh, "/nothing", 0, &stat));
    CHECK_RC(ZOK, zoo_create(zh, "/c/null", NULL, -1, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    length = sizeof buffer;
    CHECK_RC(ZOK, zoo_get(zh, "/c/null", 0, buffer, &length, &stat));
    CHECK(length == -1);
    CHECK_RC(ZNOTEMPTY, zoo_delete(zh, "/c", -1));
    CHECK_RC(ZOK, zoo_delete(zh, "/c/null", 0));
    CHECK_RC(ZOK, zoo_create2(zh, "/c/two", "2", 1, &ZOO_OPEN_ACL_UNSAFE, 0, name, sizeof name, &stat));
    CHECK(stat.dataLength == 1 && stat.czxid == stat.mzxid);

    /* container and TTL nodes */
    CHECK_RC(ZOK, zoo_create(zh, "/c/box", NULL, -1, &ZOO_OPEN_ACL_UNSAFE, ZOO_CONTAINER, NULL, 0));
    CHECK_RC(ZOK, zoo_create_ttl(zh, "/c/ttl", "t", 1, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT_WITH_TTL, 600000, NULL, 0));
    CHECK_RC(ZOK, zoo_exists(zh, "/c/ttl", 0, &stat));
    CHECK(stat.ephemeralOwner == 0);

    /* sequential: the number counts all children ever created */
    CHECK_RC(ZOK, zoo_create(zh, "/c/s-", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_SEQUENCE, name, sizeof name));
    CHECK_RC(ZOK, zoo_create(zh, "/c/s-", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_SEQUENCE, other_name, sizeof other_name));
    CHECK(strcmp(name, "/c/s-0000000004") == 0 && strcmp(other_name, "/c/s-0000000005") == 0);

    /* children */
    struct String_vector children;
    CHECK_RC(ZOK, zoo_get_children2(zh, "/c", 0, &children, &stat));
    CHECK(children.count == 5 && stat.numChildren == 5);
    deallocate_String_vector(&children);

    /* watches of each kind, in the order of the changes */
    zhandle_t *other = open_handle(argv[1], &other_seen, NULL);
    CHECK_RC(ZOK, zoo_create(other, "/w", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    length = sizeof buffer;
    CHECK_RC(ZOK, zoo_get(zh, "/w", 1, buffer, &length, &stat));
    CHECK_RC(ZOK, zoo_get_children(zh, "/w", 1, &children));
    CHECK_RC(ZNONODE, zoo_exists(zh, "/w/late", 1, &stat));
    CHECK_RC(ZOK, zoo_set(other, "/w", "1", 1, -1));
    await_event(&seen, 0, ZOO_CHANGED_EVENT, "/w");
    CHECK_RC(ZOK, zoo_set(other, "/w", "2", 1, -1)); /* nobody watches any more */
    CHECK_RC(ZOK, zoo_create(other, "/w/late", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL, NULL, 0));
    await_event(&seen, 1, ZOO_CREATED_EVENT, "/w/late");
    await_event(&seen, 2, ZOO_CHILD_EVENT, "/w");

    /* an ephemeral goes with its session, before the close is answered */
    CHECK_RC(ZOK, zoo_exists(zh, "/w/late", 1, &stat));
    CHECK(stat.ephemeralOwner == zoo_client_id(other)->client_id);
    CHECK_RC(ZNOCHILDRENFOREPHEMERALS, zoo_create(other, "/w/late/x", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    clientid_t closed = *zoo_client_id(other);
    zookeeper_close(other);
    CHECK_RC(ZNONODE, zoo_exists(zh, "/w/late", 0, &stat));
    await_event(&seen, 3, ZOO_DELETED_EVENT, "/w/late");

    /* a closed session can't be taken up again */
    static struct seen expired_seen;
    pthread_mutex_init(&expired_seen.lock, NULL);
    pthread_cond_init(&expired_seen.changed, NULL);
    zhandle_t *expired = zookeeper_init(argv[1], watcher, 10000, &closed, &expired_seen, 0);
    await_flag(&expired_seen, &expired_seen.expired);
    zookeeper_close(expired);

    /* multi: all or nothing */
    zoo_op_t ops[4];
    zoo_op_result_t results[4];
    char made[64];
    zoo_create_op_init(&ops[0], "/m", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, made, sizeof made);
    zoo_create_op_init(&ops[1], "/m/a", "a", 1, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0);
    zoo_set_op_init(&ops[2], "/m/a", "b", 1, 0, &stat);
    zoo_check_op_init(&ops[3], "/m/a", 1);
    CHECK_RC(ZOK, zoo_multi(zh, 4, ops, results));
    CHECK(strcmp(made, "/m") == 0 && stat.version == 1);
    zoo_delete_op_init(&ops[0], "/m/a", -1);
    zoo_check_op_init(&ops[1], "/m", 7);
    zoo_delete_op_init(&ops[2], "/m", -1);
    CHECK_RC(ZBADVERSION, zoo_multi(zh, 3, ops, results));
    CHECK(results[0].err == ZOK && results[1].err == ZBADVERSION && results[2].err == ZRUNTIMEINCONSISTENCY);
    CHECK_RC(ZOK, zoo_exists(zh, "/m/a", 0, &stat));

    /* ACLs */
    static char digest_scheme[] = "auth", empty[] = "";
    struct ACL creator_all[] = {{ZOO_PERM_ALL, {digest_scheme, empty}}};
    struct ACL_vector only_me = {1, creator_all};
    CHECK_RC(ZINVALIDACL, zoo_create(zh, "/secret", "s", 1, &only_me, 0, NULL, 0));
    CHECK_RC(ZOK, zoo_add_auth(zh, "digest", "me:pw", 5, NULL, NULL));
    CHECK_RC(ZOK, zoo_create(zh, "/secret", "s", 1, &only_me, 0, NULL, 0));
    memset(&other_seen, 0, sizeof other_seen);
    other = open_handle(argv[1], &other_seen, NULL);
    length = sizeof buffer;
    CHECK_RC(ZNOAUTH, zoo_get(other, "/secret", 0, buffer, &length, &stat));
    CHECK_RC(ZNOAUTH, zoo_set(other, "/secret", "x", 1, -1));
    CHECK_RC(ZOK, zoo_add_auth(other, "digest", "me:pw", 5, NULL, NULL));
    length = sizeof buffer;
    CHECK_RC(ZOK, zoo_get(other, "/secret", 0, buffer, &length, &stat));
    struct ACL_vector got;
    CHECK_RC(ZOK, zoo_get_acl(other, "/secret", &got, &stat));
    CHECK(got.count == 1 && strcmp(got.data[0].id.scheme, "digest") == 0 && strncmp(got.data[0].id.id, "me:", 3) == 0);
    deallocate_ACL_vector(&got);
    CHECK_RC(ZOK, zoo_set_acl(other, "/secret", 0, &ZOO_READ_ACL_UNSAFE));
    CHECK_RC(ZNOAUTH, zoo_set(zh, "/secret", "x", 1, -1));
    zookeeper_close(other);

    /* pipelined requests are answered in order */
    CHECK_RC(ZOK, zoo_create(zh, "/p", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    static struct completion all = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 1};
    for (int i = 0; i < 1000; i++) CHECK_RC(ZOK, zoo_aset(zh, "/p", "x", 1, i, set_done, &all));
    struct timespec until = deadline();
    pthread_mutex_lock(&all.lock);
    while (all.answered < 1000) CHECK(pthread_cond_timedwait(&all.done, &all.lock, &until) == 0);
    CHECK(all.wrong == 0);
    pthread_mutex_unlock(&all.lock);

    CHECK_RC(ZOK, zookeeper_close(zh));
    printf("C client %s: all answers as expected\n", ZOO_VERSION);
    return 0;
}
