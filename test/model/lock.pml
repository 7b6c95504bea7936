/*
 * One lock row, its queue, and the processes that use it: what src/protocol/lock-row.ts decides, verb by verb. Every verb is one
 * conditional statement, so it is one atomic step here; between two steps of a client anything may happen to the row.
 *
 * Time is left out. A lease may run out at any moment (so the database's clock may be as wrong as it likes), a ticket of the
 * queue may be held dead at any moment (STALLS times while its waiter lives), and a transaction that its client has lost
 * sight of ends at any moment. When a holder may trust its lease is the matter of trust.pml.
 *
 * Clients come a number of times, or for ever; ids and tokens that are not to be found any more are used again, so that the
 * number of states stays finite. No run may stop while a client waits; nor, says the claim at the end, go on for ever.
 *
 * One waiter per process: how waiters share a ticket is not modelled, nor are transaction holds and purge.
 */
#ifndef CLIENTS
#define CLIENTS 3
#endif
#ifndef ROUNDS          /* how often each client wants the lock; 0: again and again, for ever */
#define ROUNDS 1
#endif
#ifndef WRITES          /* guarded transactions per hold */
#define WRITES 1
#endif
#ifndef CRASHES         /* how many clients die */
#define CRASHES 0
#endif
#ifndef LOSSES          /* replies, or requests, that are lost */
#define LOSSES 0
#endif
#ifndef LATE            /* requests that are executed after their client has given them up */
#define LATE 0
#endif
#ifndef STALLS          /* living waiters that are late: to confirm, or to tell that they live */
#define STALLS 0
#endif
#ifndef LOCKED          /* releases and withdrawals that meet a row which somebody has locked for a moment, and do nothing */
#define LOCKED 0
#endif
#ifndef FORCES          /* force-releases */
#define FORCES 0
#endif
/* HINTS: hand-offs are notified, and notifications arrive late or never. EXCLUSIVE: guards lock out everybody, as on MySQL. */

#define IDS 5           /* owner and ticket ids per client; one that is not to be found any more stands for a new one */
#define NOBODY 255
#define CLIENT(id) ((id) / IDS)
#define BIT(n) (1 << (n))
#define IS_QUEUED(who) ((queued > 0 && queue[0] == who) || (queued > 1 && queue[1] == who) || (queued > 2 && queue[2] == who) \
  || (queued > 3 && queue[SLOTS - 1] == who))
#define IS_KNOWN(who) (owner == who || hint == who || late == who || IS_QUEUED(who))
#define SLOTS (CLIENTS + LATE)

mtype = { IDLE, ACQUIRING, AGAIN, GIVING_BACK, ENQUEUEING, WAITING, WITHDRAWING, HOLDING, WRITING, REFENCING, RELEASING, PROMOTING, DONE, GONE }

/* The row. */
byte owner = NOBODY;
byte token;
bool expired;           /* expires_at has passed; means nothing if nobody owns it */
bool handed;            /* handed over, not yet confirmed */
byte queue[SLOTS];
byte queued;
byte guards;            /* transactions that hold the guard's row lock */

/* The clients. */
mtype state[CLIENTS] = IDLE;
byte id[CLIENTS] = NOBODY;      /* of the attempt, or of the ticket, that the client is at */
byte tok[CLIENTS];              /* of the hold it believes in */
byte round[CLIENTS];
byte wrote[CLIENTS];
bool lapsed[CLIENTS];           /* its tickets are dead to the database: `until` has passed, or its session is gone */
byte zombie[CLIENTS];           /* token of a transaction whose client does not know how it ends */

/* On their way. */
byte hint = NOBODY;             /* ticket and token of a notified hand-off */
byte hintToken;
byte late = NOBODY;             /* id of an acquire, or of an enqueue, that its client has given up */
bool lateEnqueue;

byte crashes = CRASHES, losses = LOSSES, lates = LATE, stalls = STALLS, locked = LOCKED, forces = FORCES;

/* For properties only. */
byte top;                       /* the highest token ever granted, or raised to */
byte inQueue;                   /* clients that live, wait and are not held dead */
byte ahead[CLIENTS];            /* those of them that came before */
bool served[CLIENTS];           /* its ticket was handed the lock */
bool overtaken[CLIENTS];        /* the client wrote again while its lost transaction was open */

/* Scratch, 0 outside of atomic steps. */
byte i, j, x;
bool won;

#ifdef NO_EXPIRY_TEST
#define FREE true
#else
#define FREE (owner == NOBODY || expired)
#endif
#ifdef NO_TAKEOVER
#define READY (owner == NOBODY && queued > 0)
#else
#define READY (FREE && queued > 0)
#endif
#ifdef BARGING
#define NOBODY_WAITS true
#else
#define NOBODY_WAITS (queued == 0)
#endif
/* Whether a statement that changes the row, but gives it to nobody, gets past open guards. */
#ifdef EXCLUSIVE
#define UNLOCKED (guards == 0)
#else
#define UNLOCKED true
#endif
#define MINE(c) (owner == id[c] && token == tok[c])

inline fresh_id(c) {
  x = c * IDS;
  do
  :: IS_KNOWN(x) -> x++
  :: else -> break
  od;
  assert(x < (c + 1) * IDS);
  id[c] = x;
  x = 0;
  served[c] = false
}

/* Only the order of tokens matters: one that is not to be found any more is taken out of the numbering. */
#define HAS(c, value) (tok[c] == value || zombie[c] == value)
#if CLIENTS == 2
#define IS_SEEN(value) (hintToken == value || HAS(0, value) || HAS(1, value))
#else
#define IS_SEEN(value) (hintToken == value || HAS(0, value) || HAS(1, value) || HAS(2, value))
#endif
inline renumber() {
  x = 1;
  do
  :: x < token && IS_SEEN(x) -> x++
  :: x < token && !IS_SEEN(x) ->
    for (j : 0 .. CLIENTS - 1) {
      tok[j] = tok[j] - (tok[j] > x -> 1 : 0);
      zombie[j] = zombie[j] - (zombie[j] > x -> 1 : 0)
    }
    hintToken = hintToken - (hintToken > x -> 1 : 0);
    top = top - (top > x -> 1 : 0);
    token--
  :: else -> break
  od;
  j = 0;
  x = 0
}

inline out(c) {
  inQueue = inQueue & ~BIT(c);
  ahead[c] = 0;
  for (j : 0 .. CLIENTS - 1) { ahead[j] = ahead[j] & ~BIT(c) }
  j = 0
}

inline pop(at) {
  for (j : at .. SLOTS - 2) { queue[j] = queue[j + 1] }
  queue[SLOTS - 1] = 0;
  queued--;
  j = 0
}

inline raise() {
#ifndef TOKEN_NOT_RAISED
  token++;
#endif
  assert(token > top);          /* tokens never repeat or fall */
  top = token
}

/* Every change of owner comes through here, before it is made. */
inline check_grant() {
  assert(owner == NOBODY || expired);
  assert(guards == 0)
}

inline acquire(who) {
  won = false;
  if
  :: owner == who -> expired = false; won = true
  :: owner != who && FREE && guards == 0 && NOBODY_WAITS ->
    check_grant();
    assert(inQueue == 0);       /* first come, first served */
    raise();
    owner = who; expired = false; handed = false; won = true
  :: else
  fi
}

inline enqueue(who) {
  assert(queued < SLOTS);
  queue[queued] = who;
  queued++;
  if
  :: id[CLIENT(who)] == who && (state[CLIENT(who)] == ENQUEUEING || state[CLIENT(who)] == WAITING) ->
    lapsed[CLIENT(who)] = false;
    ahead[CLIENT(who)] = inQueue & ~BIT(CLIENT(who));
    inQueue = inQueue | BIT(CLIENT(who))
  :: else
  fi
}

/* What release and promote have in common: dead tickets go, the first live one gets the lock. Needs the right to grant. */
inline hand_over() {
  do
#ifndef DEAD_HEAD
  :: queued > 0 && lapsed[CLIENT(queue[0])] -> pop(0)
  :: queued > 0 && !lapsed[CLIENT(queue[0])] ->
#else
  :: queued > 0 && lapsed[CLIENT(queue[0])] -> break
  :: queued > 0 && !lapsed[CLIENT(queue[0])] ->
#endif
#ifdef LAST_FIRST
    x = queue[queued - 1]; pop(queued - 1);
#else
    x = queue[0]; pop(0);
#endif
#ifdef TICKET_LOST
    owner = NOBODY; handed = false;
#else
    check_grant();
    if
    :: id[CLIENT(x)] == x -> assert(ahead[CLIENT(x)] == 0); out(CLIENT(x))
    :: else
    fi;
    assert(id[CLIENT(x)] != x || !served[CLIENT(x)]);   /* nobody is served twice */
    served[CLIENT(x)] = id[CLIENT(x)] == x;
    raise();
    owner = x; expired = false; handed = true;
#ifdef HINTS
    if
    :: hint == NOBODY && state[CLIENT(x)] != GONE -> hint = x; hintToken = token
    :: else
    fi;
#endif
#endif
    x = 0;
    break
  :: else -> owner = NOBODY; handed = false; break
  od
}

inline promote() {
  if
  :: READY && guards == 0 ->
    if
    :: owner != NOBODY && handed ->
      /* Whoever was handed it did not confirm it: none of its tickets is next. */
      i = 0;
      do
      :: i < queued && CLIENT(queue[i]) == CLIENT(owner) -> pop(i)
      :: i < queued && CLIENT(queue[i]) != CLIENT(owner) -> i++
      :: else -> break
      od;
      i = 0;
      out(CLIENT(owner))
    :: else
    fi;
    hand_over()
  :: else
  fi
}

/* Sets `won` if others wait, but an open guard forbids to hand over. */
inline release(who, what) {
  won = false;
  if
#ifdef RELEASE_BY_NAME
  :: owner != NOBODY ->
#else
  :: owner == who && token == what ->
#endif
    assert(owner == who && token == what);      /* only owner and token can release */
#ifndef HAND_OFF_UNDER_GUARD
    if
    :: guards == 0 -> owner = NOBODY; hand_over()
    :: guards > 0 -> owner = NOBODY; handed = false; won = queued > 0
    fi
#else
    owner = NOBODY; hand_over()
#endif
  :: else
  fi
}

/* A poll finds that the ticket is gone, and that it was not served: its turn was missed. */
#ifdef MISSED_FOR_EVER
#define MISSED(c) false
#else
#define MISSED(c) (!IS_QUEUED(id[c]) && (owner != id[c] || expired))
#endif
inline enqueue_again(c) {
  d_step { out(c) }
  state[c] = ENQUEUEING;
  fresh_id(c)
}

inline withdraw(c) {
  i = 0;
  do
  :: i < queued && queue[i] == id[c] -> pop(i)
  :: i < queued && queue[i] != id[c] -> i++
  :: else -> break
  od;
  i = 0;
  out(c)
}

/* The one effect that counts: no write is made under a token after a later one was granted. */
inline committed(what) {
  assert(what >= top || top == 0)
}

/* A client that is at nothing has left nothing behind, unless a request of its is executed after it gave it up. */
inline check_forgotten(c) {
  assert(LATE > lates || owner == NOBODY || CLIENT(owner) != c || expired);
  for (i : 0 .. SLOTS - 1) { assert(LATE > lates || i >= queued || CLIENT(queue[i]) != c) }
  i = 0
}

#ifdef PATIENT          /* client 0 waits until it is served */
#define MAY_WITHDRAW (me != 0)
#else
#define MAY_WITHDRAW true
#endif
#define LOST_REPLY losses > 0 -> losses--

proctype Client(byte me) {
  do
  :: atomic { state[me] == IDLE && (ROUNDS == 0 || round[me] < ROUNDS) ->
       d_step {
         check_forgotten(me);
#if ROUNDS > 0
         round[me]++;
#endif
         tok[me] = 0; wrote[me] = 0;
         state[me] = ACQUIRING;
         fresh_id(me);
         renumber()
       }
     }
  :: atomic { state[me] == IDLE && (ROUNDS == 0 || round[me] == ROUNDS) ->
       d_step { check_forgotten(me); id[me] = NOBODY; tok[me] = 0; wrote[me] = 0; state[me] = DONE; renumber() }
     }

  /* acquire */
  :: atomic { (state[me] == ACQUIRING || state[me] == AGAIN) && UNLOCKED ->
       d_step { acquire(id[me]) }
       if
       :: won -> won = false;
         if
         :: tok[me] = token; state[me] = HOLDING
         :: LOST_REPLY; state[me] = AGAIN;
#ifdef GHOST
           fresh_id(me)
#endif
         fi
       :: else ->
         if
         :: state[me] = ENQUEUEING; fresh_id(me)
         :: state[me] == ACQUIRING -> state[me] = IDLE      /* tryAcquire */
         fi
       fi
     }
  :: atomic { state[me] == ACQUIRING && lates > 0 && late == NOBODY -> lates--; late = id[me]; lateEnqueue = false; state[me] = AGAIN }
  :: atomic { state[me] == AGAIN ->
#ifdef NO_GIVE_BACK
       state[me] = IDLE
#else
       state[me] = GIVING_BACK
#endif
     }
  :: atomic { state[me] == GIVING_BACK && UNLOCKED ->
       d_step { acquire(id[me]) }
       if
       :: won -> won = false; tok[me] = token; state[me] = RELEASING
       :: else -> state[me] = IDLE
       fi
     }

  /* enqueue: whether it worked, the next poll tells */
  :: atomic { state[me] == ENQUEUEING && UNLOCKED ->
       d_step { enqueue(id[me]) }
#ifdef ENQUEUED_TWICE
       if
       :: state[me] = WAITING
       :: LOST_REPLY
       fi
#else
       state[me] = WAITING
#endif
     }
  :: atomic { state[me] == ENQUEUEING && losses > 0 -> losses--; state[me] = WAITING }
  :: atomic { state[me] == ENQUEUEING && lates > 0 && late == NOBODY -> lates--; late = id[me]; lateEnqueue = true; state[me] = WAITING }

  /* poll: granted, ready to be promoted, or missed */
#ifndef NO_POLL
  :: atomic { state[me] == WAITING && owner == id[me] && !expired -> tok[me] = token; state[me] = HOLDING }
  :: atomic { state[me] == WAITING && READY && guards == 0 ->
       d_step { promote() }
       if
       :: MISSED(me) -> enqueue_again(me)
       :: else
       fi
     }
  :: atomic { state[me] == WAITING && MISSED(me) -> enqueue_again(me) }
#endif
#ifdef HINTS
  :: atomic { hint != NOBODY && CLIENT(hint) == me && state[me] != DONE && state[me] != GONE ->
       if
       :: state[me] == WAITING && id[me] == hint -> tok[me] = hintToken; state[me] = HOLDING
       :: (state[me] == HOLDING || state[me] == WRITING || state[me] == REFENCING || state[me] == RELEASING) && id[me] == hint -> skip
       :: state[me] == WITHDRAWING && id[me] == hint -> skip
       :: else -> d_step { release(hint, hintToken); won = false }   /* nobody waits for it: passed on */
       fi;
       hint = NOBODY; hintToken = 0
     }
#endif
  :: atomic { state[me] == WAITING && MAY_WITHDRAW ->
#ifdef NEVER_WITHDRAWN
       state[me] = IDLE
#else
       state[me] = WITHDRAWING
#endif
     }
  :: atomic { state[me] == WITHDRAWING && UNLOCKED ->
       d_step { withdraw(me) }
       if
#ifdef NOT_PASSED_ON
       :: state[me] = IDLE
#else
       :: owner == id[me] && !expired -> tok[me] = token; state[me] = RELEASING
       :: !(owner == id[me] && !expired) -> state[me] = IDLE
#endif
       :: LOST_REPLY
       fi
     }

  /* Whoever comes has the row locked while the client withdraws: it withdraws again. */
  :: atomic { state[me] == WITHDRAWING && locked > 0 ->
       locked--
#ifdef WITHDRAWN_ONCE
       ; state[me] = IDLE
#endif
     }

  /* renew: confirms a hand-off */
  :: atomic { state[me] == HOLDING && MINE(me) && handed && !expired && UNLOCKED -> handed = false }

  /* guard, and how its transaction ends */
  :: atomic { state[me] == HOLDING && wrote[me] < WRITES && UNLOCKED ->
       if
#ifdef GUARD_BY_NAME
       :: true ->
#else
       :: MINE(me) ->
#endif
#ifndef GUARD_WITHOUT_LOCK
         guards++;
#endif
         wrote[me]++; state[me] = WRITING
       :: !MINE(me) -> wrote[me] = 0; state[me] = RELEASING
       fi
     }
  :: atomic { state[me] == WRITING ->
       if
       :: committed(tok[me]);                   /* commit */
         if
         :: zombie[me] != 0 -> overtaken[me] = true
         :: else
         fi;
         state[me] = HOLDING
       :: state[me] = HOLDING                   /* rollback */
       :: losses > 0 && zombie[me] == 0 ->      /* no reply: it may commit yet, long after */
         losses--;
         zombie[me] = tok[me];
         guards++;
#ifdef NO_REFENCE
         state[me] = HOLDING
#else
         state[me] = REFENCING
#endif
       fi;
#ifndef GUARD_WITHOUT_LOCK
       guards--
#endif
     }
  /* By owner alone, so that it can be repeated; waits for the transaction, whose guard locks the row. */
  :: atomic { state[me] == REFENCING && guards == 0 ->
       if
       :: owner == id[me] -> raise(); tok[me] = token;
         if
         :: state[me] = HOLDING
         :: LOST_REPLY
         fi
       :: else -> state[me] = RELEASING
       fi
     }

  /* release */
  :: atomic { (state[me] == HOLDING || state[me] == REFENCING) -> wrote[me] = 0; state[me] = RELEASING }
  :: atomic { state[me] == RELEASING && UNLOCKED ->
       d_step { release(id[me], tok[me]) }
       if
       :: won -> won = false; state[me] = PROMOTING
       :: else -> state[me] = IDLE
       :: LOST_REPLY; won = false
       fi
     }
  /* The same while it releases, or passes on what crossed its withdrawal. */
  :: atomic { state[me] == RELEASING && locked > 0 ->
       locked--
#ifdef PASSED_ON_ONCE
       ; state[me] = IDLE
#endif
     }
  :: atomic { state[me] == PROMOTING && guards == 0 -> d_step { promote() } state[me] = IDLE }

  :: atomic { crashes > 0 && state[me] != IDLE && state[me] != DONE && state[me] != GONE ->
       crashes--;
       if
       :: state[me] == WRITING && zombie[me] == 0 ->
#ifdef GUARD_WITHOUT_LOCK
         guards++;
#endif
         zombie[me] = tok[me]
       :: state[me] == WRITING && zombie[me] != 0 -> guards--        /* only in mutants */
       :: else
       fi;
       d_step { out(me); tok[me] = 0; wrote[me] = 0; served[me] = false; state[me] = GONE; renumber() }
     }
  :: state[me] == DONE || state[me] == GONE -> break
  od
}

#define AT(c, who) (id[c] == who && state[c] != IDLE && state[c] != DONE && state[c] != GONE)

/* A transaction that its client lost sight of ends; a client is held dead. */
inline outcomes(c) {
  if
  :: zombie[c] != 0 ->
    if
    :: committed(zombie[c]); assert(!overtaken[c])       /* nor before one that its client made later */
    :: true
    fi;
    zombie[c] = 0; overtaken[c] = false; guards--
  :: state[c] == GONE && !lapsed[c] -> lapsed[c] = true
  :: stalls > 0 && state[c] == WAITING && !lapsed[c] -> stalls--; lapsed[c] = true; d_step { out(c) }
  fi
}
#define OUTCOMES(c) atomic { zombie[c] != 0 || ((state[c] == GONE || (stalls > 0 && state[c] == WAITING)) && !lapsed[c]) -> outcomes(c) }

/* What comes to pass without a client: time, the ends of transactions, the network, an administrator. */
active proctype World() {
end:
  do
  :: atomic { owner != NOBODY && !expired && !AT(CLIENT(owner), owner) -> expired = true }
  :: atomic { owner != NOBODY && !expired && AT(CLIENT(owner), owner) && state[CLIENT(owner)] != WAITING -> expired = true }
  :: atomic { stalls > 0 && owner != NOBODY && !expired && AT(CLIENT(owner), owner) && state[CLIENT(owner)] == WAITING ->
       stalls--; expired = true
     }
  :: atomic { forces > 0 && owner != NOBODY && !expired && guards == 0 ->
       forces--; raise(); owner = NOBODY; handed = false
     }
#if LATE > 0
  :: atomic { late != NOBODY ->
       if
       :: lateEnqueue -> d_step { enqueue(late) }
       :: !lateEnqueue -> d_step { acquire(late); won = false }
       :: true                          /* or never */
       fi;
       late = NOBODY; lateEnqueue = false
     }
#endif
#ifdef HINTS
  :: atomic { hint != NOBODY -> hint = NOBODY; hintToken = 0 }
#endif
  :: OUTCOMES(0)
  :: OUTCOMES(1)
#if CLIENTS > 2
  :: OUTCOMES(2)
#endif
  od
}

init {
  atomic {
    for (i : 0 .. CLIENTS - 1) { run Client(i) }
    i = 0
  }
}

#ifdef LIVENESS         /* with weak fairness; needs PATIENT */
ltl served_at_last { [] (state[0] == WAITING -> <> (state[0] != WAITING)) }
#endif
