/*
 * A lock that is shared, or a semaphore, and the processes that use it: what src/protocol/lock-row.ts decides where holds have
 * weights. lock.pml has the rest in more detail: tokens, notified hand-offs, requests that come late. A hold is known by its
 * owner here.
 *
 * The lock's row keeps who has it exclusively, `used` and the queue. Each shared hold is in a slot of its own, and a slot may be
 * locked by the transaction that guards its hold, or has adopted it. A statement skips slots that are locked, and takes off `used`
 * only what it has locked itself. Every verb is one atomic step; between two steps anything may happen to the row and the slots.
 *
 * A hold may run out at any moment, a ticket may be held dead at any moment (STALLS times while its waiter lives), and a
 * transaction that its client has lost sight of ends at any moment. Who polls promotes. No run may stop while a client waits;
 * nor, says the claim at the end, go on for ever.
 *
 * One waiter per process. Not modelled are exclusive holds of transactions, and the plain look that comes before a statement on
 * InnoDB, which writes if nothing has changed since.
 */
#ifndef CLIENTS
#define CLIENTS 3
#endif
#ifndef ROUNDS          /* how often each client wants the lock; 0: again and again, for ever */
#define ROUNDS 1
#endif
#ifndef GUARDS          /* guarded transactions per hold */
#define GUARDS 1
#endif
#ifndef CRASHES         /* how many clients die */
#define CRASHES 0
#endif
#ifndef LOSSES          /* replies, or requests, that are lost */
#define LOSSES 0
#endif
#ifndef STALLS          /* living waiters that are late: to confirm, or to tell that they live */
#define STALLS 0
#endif
#ifndef LOCKED          /* releases that meet a row which somebody has locked for a moment */
#define LOCKED 0
#endif
#ifndef FORCES          /* force-releases of a single hold */
#define FORCES 0
#endif
#ifndef RESIZES         /* from 3 permits to 2, or back */
#define RESIZES 0
#endif
/*
 * PERMITS: it is a semaphore with so many, of which each client wants 1 or 2. Else it is a lock, which each client wants shared
 * or exclusively. ADOPT: transactions adopt shared holds. SPARING: where there is room, a grant leaves what has ended to others, as
 * on InnoDB. PARTS: client 0 always wants the greater part, and the others the smaller.
 */

#define NOBODY 255
#define NONE 255
#define ROW 0           /* where an exclusive hold is; the slots are 1 to SLOTS */
#define SLOTS 4
#ifdef PERMITS
#define LOT 2
#define ROOM permits
#define IS_EXCLUSIVE(who) false
#else
#define LOT 16          /* an exclusive hold leaves no room */
#define ROOM 16
#define IS_EXCLUSIVE(who) WANTS_A_LOT(who)
#endif

/* The ids of owners and tickets say who wants how much; one that is not to be found any more stands for a new one. */
#define IDS 8
#define CLIENT(who) ((who) / IDS)
#define WANTS_A_LOT(who) ((who) % 2 == 0)
#define WANTED(who) (WANTS_A_LOT(who) -> LOT : 1)
#define BIT(n) (1 << (n))

mtype = { IDLE, ACQUIRING, AGAIN, GIVING_BACK, ENQUEUEING, WAITING, WITHDRAWING, HOLDING, WRITING, DOWNGRADING, RELEASING, DONE, GONE }

/* The row and its slots. A slot that has no owner any more has a weight until a grant, or its release, takes it off. */
byte owner[SLOTS + 1] = NOBODY;
bool expired[SLOTS + 1];        /* expires_at has passed */
bool handed[SLOTS + 1];         /* handed over, not yet confirmed */
byte weight[SLOTS + 1];
byte used;
byte queue[CLIENTS];
byte queued;
#ifdef PERMITS
byte permits = PERMITS;
#endif

/* The clients. */
mtype state[CLIENTS] = IDLE;
byte id[CLIENTS] = NOBODY;      /* of the attempt, or of the ticket, that the client is at */
byte at[CLIENTS];               /* where the hold is that it believes in */
byte round[CLIENTS];
byte guarded[CLIENTS];
bool lapsed[CLIENTS];           /* its tickets are dead to the database */

/* Their transactions: what each protects, NONE if none is open, and how much that was. */
byte protected[CLIENTS] = NONE;
byte part[CLIENTS];
bool adopted[CLIENTS];

byte crashes = CRASHES, losses = LOSSES, stalls = STALLS, locked = LOCKED, forces = FORCES, resizes = RESIZES;

/* For properties only. */
byte inQueue;                   /* clients that live, wait and are not held dead */
byte ahead[CLIENTS];            /* those of them that came before */

/* Scratch, 0 outside of atomic steps. */
byte i, j, x, y, own, taken, counted;
bool won, ours;

#define ANY_SLOT(test) (test(1) || test(2) || test(3) || test(4))
#define SUM_OF_SLOTS(of) (of(1) + of(2) + of(3) + of(4))
#if CLIENTS == 2
#define SUM_OF_CLIENTS(of) (of(0) + of(1))
#define IS_QUEUED(who) ((queued > 0 && queue[0] == who) || (queued > 1 && queue[1] == who))
#define IS_PROTECTED(place) (protected[0] == place || protected[1] == place)
#else
#define SUM_OF_CLIENTS(of) (of(0) + of(1) + of(2))
#define IS_QUEUED(who) ((queued > 0 && queue[0] == who) || (queued > 1 && queue[1] == who) || (queued > 2 && queue[2] == who))
#define IS_PROTECTED(place) (protected[0] == place || protected[1] == place || protected[2] == place)
#endif
#ifdef GUARD_WITHOUT_LOCK
#define IS_LOCKED(place) false
#else
#define IS_LOCKED(place) IS_PROTECTED(place)
#endif
#define LASTS(place) (owner[place] != NOBODY && !expired[place])
#define IS_FREE(slot) (weight[slot] == 0 && !IS_LOCKED(slot))
/* What a statement takes off. */
#ifdef EXPIRY_WITHOUT_LOCK
#define HAS_ENDED(slot) (weight[slot] > 0 && !LASTS(slot))
#else
#ifdef RELEASED_NOT_TAKEN_OFF
#define HAS_ENDED(slot) (weight[slot] > 0 && owner[slot] != NOBODY && expired[slot] && !IS_LOCKED(slot))
#else
#define HAS_ENDED(slot) (weight[slot] > 0 && !LASTS(slot) && !IS_LOCKED(slot))
#endif
#endif
#define ENDED_WEIGHT(slot) (HAS_ENDED(slot) -> weight[slot] : 0)
#define TAKEN (used - SUM_OF_SLOTS(ENDED_WEIGHT) + (LASTS(ROW) -> LOT : 0))
#define FITS(who, beside) (beside + WANTED(who) <= ROOM)
#if defined(PASSED_BY_LIGHTER) || defined(STARVED)
#define NOBODY_WAITS(who) (queued == 0 || !WANTS_A_LOT(who))
#else
#define NOBODY_WAITS(who) (queued == 0)
#endif
/* Somebody waits, and there is room for who is next; the dead are cleared away. */
#define PROMOTABLE (queued > 0 && !IS_LOCKED(ROW) && (lapsed[CLIENT(queue[0])] || FITS(queue[0], TAKEN)))

/* How much is held by holds that have not run out, or that a transaction protects. */
#define LEFT_WEIGHT(slot) (LASTS(slot) && !IS_PROTECTED(slot) -> weight[slot] : 0)
#define PART(c) (protected[c] != NONE -> part[c] : 0)
#define COUNTED (SUM_OF_SLOTS(LEFT_WEIGHT) + (LASTS(ROW) && !IS_PROTECTED(ROW) -> LOT : 0) + SUM_OF_CLIENTS(PART))
#define WEIGHT_OF(slot) weight[slot]

/* Every permit comes back exactly once: the sum is right, and a grant finds no more taken than what counts. */
inline check_sum() {
  counted = SUM_OF_SLOTS(WEIGHT_OF);
  assert(used == counted);
  counted = COUNTED;
  taken = TAKEN;
  assert(taken <= counted || IS_LOCKED(ROW));
  counted = 0; taken = 0
}

/* No reader beside a writer, never more than there is. */
inline check_room(amount) {
  counted = COUNTED;
  assert(counted + amount <= ROOM);
  counted = 0
}

#define IS_OF_X(slot) (owner[slot] == x)
inline fresh_id(c, lot) {
  x = c * IDS + (lot -> 0 : 1);
  do
  :: IS_QUEUED(x) || owner[ROW] == x || ANY_SLOT(IS_OF_X) -> x = x + 2
  :: else -> break
  od;
  assert(x < (c + 1) * IDS);
  id[c] = x;
  x = 0
}

inline out(c) {
  inQueue = inQueue & ~BIT(c);
  ahead[c] = 0;
  for (j : 0 .. CLIENTS - 1) { ahead[j] = ahead[j] & ~BIT(c) }
  j = 0
}

inline pop(from) {
  for (j : from .. CLIENTS - 2) { queue[j] = queue[j + 1] }
  queue[CLIENTS - 1] = 0;
  queued--;
  j = 0
}

inline clear(place) {
  owner[place] = NOBODY; expired[place] = false; handed[place] = false
}

inline take_off(slot) {
  used = used - weight[slot];
  weight[slot] = 0;
  clear(slot)
}

/* What ended goes with every grant; but for what its own owner takes up again. */
inline take_off_ended(who) {
  for (j : 1 .. SLOTS) {
    if
    :: HAS_ENDED(j) && owner[j] != who -> take_off(j)
    :: else
    fi
  }
  j = 0
}

inline put(who, amount) {
  j = 1;
  do
  :: j < SLOTS && !IS_FREE(j) -> j++
  :: else -> break
  od;
  assert(IS_FREE(j));
  owner[j] = who; weight[j] = amount; used = used + amount
}

/* Every grant but one that is repeated. */
inline grant(who, by_hand) {
  check_room(WANTED(who));
#ifdef SPARING
  if
  :: used + WANTED(who) <= ROOM && ANY_SLOT(IS_FREE) -> skip
  :: else -> take_off_ended(who)
  fi;
#else
  take_off_ended(who);
#endif
  clear(ROW);
  if
  :: IS_EXCLUSIVE(who) -> owner[ROW] = who; j = ROW
  :: else -> put(who, WANTED(who))
  fi;
  handed[j] = by_hand;
  j = 0
}

#ifdef JUDGED_BEFORE
bool looked[CLIENTS];           /* it saw that there is room */
#define HAS_ROOM(who) looked[CLIENT(who)]
#else
#define HAS_ROOM(who) FITS(who, taken)
#endif

inline acquire(who) {
  own = NONE;
  for (j : 0 .. SLOTS) {
#ifdef SECOND_SLOT
    if
    :: owner[j] == who && j == ROW -> own = j
#else
    if
    :: owner[j] == who -> own = j
#endif
    :: else
    fi
  }
  j = 0;
  taken = TAKEN;
  if
  :: own == ROW && LASTS(ROW) -> taken = taken - LOT
  :: own != ROW && own != NONE && !HAS_ENDED(own) -> taken = taken - weight[own]
  :: else
  fi;
  if
  :: own != NONE && (FITS(who, taken) || LASTS(own)) && !IS_LOCKED(ROW) && !IS_LOCKED(own) ->
    take_off_ended(who);
    if
    :: own != ROW -> clear(ROW)
    :: else
    fi;
    expired[own] = false;
    won = true
  :: own == NONE && HAS_ROOM(who) && NOBODY_WAITS(who) && !IS_LOCKED(ROW) ->
#ifndef STARVED
    assert(inQueue == 0);       /* first come, first served */
#endif
    grant(who, false);
    won = true
  :: else
  fi;
  own = 0;
  check_sum()
}

/* Where that owner's hold is that has not run out. */
#define HAS(c, place) (LASTS(place) && owner[place] == id[c])
#define HAS_ANY(c) (HAS(c, 0) || HAS(c, 1) || HAS(c, 2) || HAS(c, 3) || HAS(c, 4))
inline find(c) {
  j = 0;
  do
  :: !HAS(c, j) -> j++
  :: else -> break
  od;
  at[c] = j;
  j = 0
}

inline enqueue(c) {
  assert(queued < CLIENTS);
  queue[queued] = id[c];
  queued++;
  lapsed[c] = false;
  ahead[c] = inQueue & ~BIT(c);
  inQueue = inQueue | BIT(c)
}

/* To the first tickets that live, as many as fit. The caller has the lock's row, and nobody has the lock exclusively. */
inline hand_over() {
  /* Whoever was handed it did not confirm it in time: none of its tickets is next. */
  for (i : 0 .. SLOTS) {
    if
    :: handed[i] && expired[i] && (i == ROW || HAS_ENDED(i)) ->
      handed[i] = false;
      y = CLIENT(owner[i]);
      x = 0;
      do
      :: x < queued && CLIENT(queue[x]) == y -> pop(x)
      :: x < queued && CLIENT(queue[x]) != y -> x++
      :: else -> break
      od;
      x = 0;
      out(y);
      y = 0
    :: else
    fi
  }
  i = 0;
  do
  :: queued > 0 && lapsed[CLIENT(queue[0])] -> pop(0)
  :: queued > 0 && !lapsed[CLIENT(queue[0])] ->
    x = 0;
#ifdef LIGHTER_FIRST
    if
    :: !FITS(queue[0], TAKEN) && queued > 1 && !lapsed[CLIENT(queue[1])] -> x = 1
    :: else
    fi;
#endif
    if
#ifdef ONE_TOO_MANY
    :: FITS(queue[x], TAKEN) || (TAKEN > 0 && TAKEN < ROOM) ->
#else
    :: FITS(queue[x], TAKEN) ->
#endif
      y = queue[x];
      pop(x);
      x = 0;
      if
      :: id[CLIENT(y)] == y -> assert(ahead[CLIENT(y)] == 0); out(CLIENT(y))     /* nobody is passed */
      :: else
      fi;
      grant(y, true);
      y = 0
    :: else -> x = 0; break
    fi
  :: else -> break
  od
}

inline promote() {
  if
  :: PROMOTABLE -> hand_over(); check_sum()
  :: else
  fi
}

/* Where the row is locked, or a transaction protects the slot, the hold ends and its weight stays. */
inline release(who, place, is_locked) {
  if
#ifdef GIVEN_BACK_TWICE
  :: place != ROW && owner[place] == NOBODY && !IS_LOCKED(ROW) -> used = used - WANTED(who)
#endif
  :: owner[place] == who ->
    if
    :: is_locked || IS_LOCKED(ROW) -> clear(place)
    :: !(is_locked || IS_LOCKED(ROW)) ->
      if
#ifndef UNSHARED_UNDER_GUARD
      :: place == ROW || IS_LOCKED(place) -> clear(place)
      :: place != ROW && !IS_LOCKED(place) -> take_off(place)
#else
      :: place == ROW -> clear(place)
      :: place != ROW -> take_off(place)
#endif
      fi;
      hand_over()
    fi
  :: else
  fi;
  check_sum()
}

/* The hold goes on in a slot, and readers who are next come in. Sets `won` if it is there, `ours` if the row is locked. */
inline downgrade(c) {
  if
  :: LASTS(ROW) && owner[ROW] == id[c] ->
    if
#ifdef DOWNGRADED_UNDER_GUARD
    :: false -> ours = true
    :: true ->
#else
    :: IS_LOCKED(ROW) -> ours = true
    :: !IS_LOCKED(ROW) ->
#endif
      clear(ROW);
#ifdef DOWNGRADED_IN_TWO_STEPS
      hand_over();
#endif
      if
      :: protected[c] != ROW -> check_room(1)           /* nobody comes in between */
      :: else
      fi;
      put(id[c], 1);
      j = 0;
      hand_over();
      won = true
    fi
  :: !(LASTS(ROW) && owner[ROW] == id[c]) && HAS_ANY(c) -> won = true     /* asked again: the first answer was lost */
  :: else
  fi;
  check_sum()
}

#define IS_MISSED(c) (!IS_QUEUED(id[c]) && !HAS_ANY(c))
inline enqueue_again(c) {
  d_step {
    out(c);
    state[c] = ENQUEUEING;
    fresh_id(c, WANTS_A_LOT(id[c]))
  }
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

/*
 * The promise: of guarded transactions that are open at a time, none is beside one that keeps it out. Where permits become fewer,
 * those who have theirs already may go on, and only grants are judged.
 */
#define BESIDE(c) (c != me && protected[c] != NONE -> part[c] : 0)
inline begin_guarded(place, adopts) {
  protected[me] = place;
  part[me] = (place == ROW -> LOT : weight[place]);
  adopted[me] = adopts;
#if RESIZES == 0
  taken = SUM_OF_CLIENTS(BESIDE);
  assert(taken + part[me] <= ROOM);
  taken = 0;
#endif
  guarded[me]++;
  state[me] = WRITING
}

/* A commit ends the hold that was adopted; after a rollback it is left to run out. */
inline end_guarded(c, commits) {
  if
  :: adopted[c] && owner[protected[c]] == id[c] ->
    if
    :: commits -> clear(protected[c])
    :: !commits -> expired[protected[c]] = true
    fi
  :: else
  fi;
  protected[c] = NONE; part[c] = 0; adopted[c] = false;
}

/* A client that is at nothing has left nothing behind. */
inline check_forgotten(c) {
  for (i : 0 .. SLOTS) { assert(!LASTS(i) || CLIENT(owner[i]) != c) }
  for (i : 0 .. CLIENTS - 1) { assert(i >= queued || CLIENT(queue[i]) != c) }
  i = 0
}

inline come(c, lot) {
  d_step {
    check_forgotten(c);
#if ROUNDS > 0
    round[c]++;
#endif
    guarded[c] = 0; at[c] = 0;
    state[c] = ACQUIRING;
    fresh_id(c, lot)
  }
}

#ifdef PATIENT          /* client 0 waits until it is served */
#define MAY_WITHDRAW (me != 0)
#else
#define MAY_WITHDRAW true
#endif
#ifdef PARTS
#define MAY_WANT_A_LOT (me == 0)
#define MAY_WANT_LITTLE (me != 0)
#else
#define MAY_WANT_A_LOT true
#define MAY_WANT_LITTLE true
#endif
#define COMES (state[me] == IDLE && (ROUNDS == 0 || round[me] < ROUNDS))
#define LOST_REPLY losses > 0 -> losses--

proctype Client(byte me) {
  do
  :: atomic { COMES && MAY_WANT_A_LOT -> come(me, true) }
  :: atomic { COMES && MAY_WANT_LITTLE -> come(me, false) }
  :: atomic { state[me] == IDLE && ROUNDS > 0 && round[me] == ROUNDS ->
       d_step { check_forgotten(me); id[me] = NOBODY; guarded[me] = 0; at[me] = 0; state[me] = DONE }
     }

  /* acquire */
#ifdef JUDGED_BEFORE
  :: atomic { state[me] == ACQUIRING && !looked[me] && FITS(id[me], TAKEN) -> looked[me] = true }
#endif
  :: atomic { state[me] == ACQUIRING || state[me] == AGAIN ->
       d_step { acquire(id[me]) }
       if
       :: won -> won = false;
         if
         :: d_step { find(me); state[me] = HOLDING }
         :: LOST_REPLY; state[me] = AGAIN
         fi
       :: else ->
         if
         :: d_step { fresh_id(me, WANTS_A_LOT(id[me])); state[me] = ENQUEUEING }
         :: state[me] == ACQUIRING -> state[me] = IDLE      /* tryAcquire */
         fi
       fi
     }
  :: atomic { state[me] == AGAIN -> state[me] = GIVING_BACK }
  :: atomic { state[me] == GIVING_BACK ->
       d_step { acquire(id[me]) }
       if
       :: won -> d_step { won = false; find(me); state[me] = RELEASING }
       :: else -> state[me] = IDLE
       fi
     }

  /* enqueue: whether it worked, the next poll tells */
  :: atomic { state[me] == ENQUEUEING -> d_step { enqueue(me); state[me] = WAITING } }
  :: atomic { state[me] == ENQUEUEING && losses > 0 -> losses--; state[me] = WAITING }

  /* poll: granted, promotable, or missed */
  :: atomic { state[me] == WAITING && HAS_ANY(me) -> d_step { find(me); state[me] = HOLDING } }
  :: atomic { state[me] == WAITING && !HAS_ANY(me) && PROMOTABLE -> d_step { promote() } }
  :: atomic { state[me] == WAITING && IS_MISSED(me) -> enqueue_again(me) }

  :: atomic { state[me] == WAITING && MAY_WITHDRAW -> state[me] = WITHDRAWING }
  :: atomic { state[me] == WITHDRAWING ->
       d_step { withdraw(me) }
       if
       :: HAS_ANY(me) -> d_step { find(me); state[me] = RELEASING }
       :: !HAS_ANY(me) -> state[me] = IDLE
       :: LOST_REPLY
       fi
     }

  /* renew: confirms a hand-off */
  :: atomic { state[me] == HOLDING && HAS(me, at[me]) && handed[at[me]] -> handed[at[me]] = false }

  /* guard; adoptIn. Whether the hold has run out, its holder's clock says. */
  :: atomic { state[me] == HOLDING && guarded[me] < GUARDS && protected[me] == NONE ->
       if
#ifdef GUARD_BY_PLACE
       :: owner[at[me]] != NOBODY -> d_step { begin_guarded(at[me], false) }
       :: owner[at[me]] == NOBODY -> state[me] = RELEASING
#else
       :: owner[at[me]] == id[me] -> d_step { begin_guarded(at[me], false) }
#ifdef ADOPT
       :: owner[at[me]] == id[me] && at[me] != ROW -> d_step { begin_guarded(at[me], true) }
#endif
       :: owner[at[me]] != id[me] -> state[me] = RELEASING
#endif
       fi
     }
  :: atomic { state[me] == WRITING ->
       if
       :: d_step { state[me] = (adopted[me] -> IDLE : HOLDING); end_guarded(me, true) }
       :: d_step { state[me] = (adopted[me] -> IDLE : HOLDING); end_guarded(me, false) }
       :: !adopted[me] && losses > 0 -> losses--; state[me] = HOLDING       /* it may commit yet, long after */
       fi
     }

#ifndef PERMITS
  :: atomic { state[me] == HOLDING && at[me] == ROW -> state[me] = DOWNGRADING }
  :: atomic { state[me] == DOWNGRADING ->
       d_step { downgrade(me) }
       if
       :: won -> won = false;
         if
         :: d_step { find(me); guarded[me] = 0; state[me] = HOLDING }
         :: LOST_REPLY
         fi
       :: ours -> ours = false
       :: else -> state[me] = RELEASING
       fi
     }
#endif

  /* release */
  :: atomic { state[me] == HOLDING -> state[me] = RELEASING }
  :: atomic { state[me] == RELEASING ->
       if
       :: d_step { release(id[me], at[me], false) }
       :: locked > 0 && at[me] != ROW -> locked--; d_step { release(id[me], at[me], true) }
       fi;
       if
       :: state[me] = IDLE
       :: LOST_REPLY
       fi
     }

  :: atomic { crashes > 0 && state[me] != IDLE && state[me] != DONE && state[me] != GONE ->
       crashes--;
       d_step { out(me); guarded[me] = 0; at[me] = 0; state[me] = GONE }
     }
  :: state[me] == DONE || state[me] == GONE -> break
  od
}

#define WAITS_AT(c, who) (id[c] == who && state[c] == WAITING)
/* Nobody sees that the transaction is open but the database. */
#define IS_LOST(c) (protected[c] != NONE && state[c] != WRITING)

inline outcomes(c) {
  if
  :: IS_LOST(c) -> d_step { end_guarded(c, true) }
  :: IS_LOST(c) && adopted[c] -> d_step { end_guarded(c, false) }
  :: state[c] == GONE && !lapsed[c] -> lapsed[c] = true
  :: stalls > 0 && state[c] == WAITING && !lapsed[c] -> stalls--; lapsed[c] = true; d_step { out(c) }
  fi
}
#define OUTCOMES(c) atomic { IS_LOST(c) || ((state[c] == GONE || (stalls > 0 && state[c] == WAITING)) && !lapsed[c]) -> outcomes(c) }
/* A hold runs out: that of a waiter that lives only if it is late. */
#define RUNS_OUT(place) \
  atomic { LASTS(place) && !WAITS_AT(CLIENT(owner[place]), owner[place]) -> expired[place] = true } \
  :: atomic { stalls > 0 && LASTS(place) && WAITS_AT(CLIENT(owner[place]), owner[place]) -> stalls--; expired[place] = true }
#define FORCED(slot) \
  atomic { forces > 0 && LASTS(slot) && !IS_LOCKED(ROW) && !IS_LOCKED(slot) -> forces--; d_step { take_off(slot); check_sum() } }

/* What comes to pass without a client: time, the ends of transactions, an administrator. */
active proctype World() {
end:
  do
  :: RUNS_OUT(0)
  :: RUNS_OUT(1)
  :: RUNS_OUT(2)
  :: RUNS_OUT(3)
  :: RUNS_OUT(4)
#if FORCES > 0
  :: atomic { forces > 0 && LASTS(ROW) && !IS_LOCKED(ROW) -> forces--; d_step { clear(ROW); check_sum() } }
  :: FORCED(1)
  :: FORCED(2)
  :: FORCED(3)
  :: FORCED(4)
#endif
#if RESIZES > 0
  :: atomic { resizes > 0 && !IS_LOCKED(ROW) -> resizes--; permits = 5 - permits; d_step { hand_over(); check_sum() } }
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
