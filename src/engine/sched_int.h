/* sched_int.h - what the scheduler's two files share: sched.c is the door (queues, locks, thread),
 * sched_step.c the pass (who goes into a batch, and what comes out of it). */
#ifndef PUNA_ENGINE_SCHED_INT_H
#define PUNA_ENGINE_SCHED_INT_H

#include <pthread.h>

#include "engine/ahead.h"
#include "engine/answer.h"
#include "engine/draft.h"
#include "engine/kvpool.h"
#include "engine/sched.h"

enum { SCHED_TENANTS = 256 };

/* How long a pass takes: a line through the passes so far, older ones fading. Sums over passes. */
struct pace {
    double n, rows, rows2, s, rows_s;
};

/* One request on its way. */
struct job {
    struct job *next; /* in the inbox */
    uint64_t ticket;
    struct sched_request r;        /* r.gen points into memory below */
    struct gen_request gen;        /* = r.gen with owned pointers */
    int32_t *prompt, *eos, *watch; /* owned */
    char **stop;                   /* owned */
    struct logit_bias *bias;       /* owned */
    double submitted, admitted;    /* monotonic seconds; admitted: for the first time */
    double expires;                /* monotonic seconds; 0 = never */
    struct answer answer;
    struct gen_result result;
    struct kvseq kv;
    struct draft_seq drafts;       /* what the drafter knows of it */
    size_t done;                   /* tokens of answer.all whose K and V are in the cache */
    size_t cached;                 /* of the prompt, found in the prefix cache at first admission */
    bool active, told;             /* in the batch; SCHED_PROMPT was sent */
    bool over;                     /* its last event was sent: to be freed */
    bool untold;                   /* its last token's event waits for the next pass to begin */
    size_t shown;                  /* bytes of result.text sent */
    struct score *score;           /* [n_prompt - 1], of which n_scored are known; owned */
    struct top_logprob *score_top; /* owned */
    size_t n_scored;
    double *pooled; /* [D] sum of the hidden states of the first n_pooled tokens; owned */
    size_t n_pooled;
    float *embedding; /* [D]; owned */
    /* this pass */
    size_t rows, first_row, first_want, n_score; /* n_score rows are wanted for scores */
    size_t n_guess, n_draft;                     /* n_draft: those that are the drafter's */
    int32_t guess[MAX_GUESS];
    int32_t picked; /* its token, by the head of its logits; -1 = that takes all of them */
    const struct pick_list *chances; /* of picked, where its probability is told */
};

/* An answer whose next token may be told by the head of its logits. */
struct head {
    struct job *j;
    struct sampling how;
    struct pick_changes changes; /* owned; kept for the next pass */
};

struct sched {
    struct engine *g;
    struct sched_opts o;
    struct kv_cache kv;
    struct kvpool *pool;
    struct sampler *sampler;
    struct ahead *ahead;
    size_t ctx;

    /* the engine thread's own */
    struct job **waiting; /* by rank: priority, then arrival */
    size_t n_waiting, cap_waiting;
    struct job **active; /* by rank too */
    size_t n_active;
    double served[SCHED_TENANTS]; /* rows computed for each; tenants of one place share it */
    double served_now;            /* of the tenant admitted last */
    struct batch batch;           /* its arrays are owned */
    int32_t *token, *pos, *slot, *seq, *want;
    int32_t *prompt; /* [max_active] */
    const int32_t **table;
    const struct lora **lora; /* [max_active] */
    float *logits;            /* [max_want][V] */
    /* where rows of logits stay on a device, else NULL: which are in `logits` [max_want]; what is
     * asked of others, and told [max_active] */
    bool *have;
    struct head *heads;
    struct pick_ask *head_asks;
    struct pick_list *lists, *chances;
    size_t n_heads; /* of this pass, once that is prepared */
    bool prepared;
    float *hidden; /* [chunk][D], made for the first job that pools; owned */
    size_t max_want;
    struct pace pace;
    double ended, ending_s; /* answers that ended, and time in passes: fading sums */
    struct job **turns;     /* [max_active]: scratch of deal() */
    struct draft *draft;    /* owned; NULL = guesses come from the text so far */
    struct draft_ask *asks; /* [max_active]: scratch of deal() */

    /* shared, under lock */
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    pthread_t thread;
    bool started, quit, draining, busy;
    struct job *inbox, **inbox_end;
    uint64_t *cancel; /* tickets */
    size_t n_cancel, cap_cancel;
    size_t n_jobs;             /* taken and not over */
    struct {                   /* what a request that comes now has before it */
        size_t rows, new_rows; /* of prompts in the lists, as of the last pass, and in the inbox */
        double row_s, end_s;   /* seconds for a row of a prompt, and between ends of answers */
    } line;
    uint64_t next_ticket;
    struct sched_stats stats;
    struct {
        size_t rows, want, blocks, lookups; /* the most so far; tokens looked up in all */
    } peak;
    double last_step;
};

/* Seconds that a row of a prompt takes while many wait; 0 = nothing is known yet. */
double sched_row_s(const struct sched *s);
/* One pass. Only the engine thread calls it, without the lock. */
void sched_step(struct sched *s);
/* Sends the last event and gives the blocks back; the job is freed by the caller's sweep. */
void job_finish(struct sched *s, struct job *j, enum finish finish);
void job_fail(struct sched *s, struct job *j, const struct err *e);
/* Puts it among the waiting, at its rank. */
void job_wait(struct sched *s, struct job *j);
void job_free(struct job *j);

#endif
