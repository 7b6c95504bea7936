/*
 * When a holder may trust its lease: the clocks that lock.pml leaves out. The database counts down a lease from the moment
 * it writes the expiry; its holder counts from before it sent the request, by a clock that may lose a tick on the way, and
 * stops a margin early. Requests and replies take any time, and a renewal that was given up may be executed later.
 *
 * Property: whenever somebody is granted the lock, nobody else trusts a lease on it.
 */
#ifndef CLIENTS
#define CLIENTS 3
#endif
#ifndef TTL
#define TTL 4
#endif
#ifndef LATE
#define LATE true               /* whether renewals are executed after they were given up */
#endif
#define CONFIRM 2               /* how long a hand-off lasts, unless it is renewed */
#ifdef NO_MARGIN
#define MARGIN 0
#else
#define MARGIN 1                /* as many ticks as a holder's clock may lose while a lease lasts */
#endif

#define NOBODY 255

mtype = { IDLE, ACQUIRING, WAITING, POLLING, GRANTED, HOLDING, RENEWING, RENEWED, RELEASING }

/* The row. */
byte owner = NOBODY;
byte left;                      /* ticks until it expires */
byte queue[CLIENTS];
byte queued;

/* The clients. */
mtype state[CLIENTS] = IDLE;
byte id[CLIENTS] = NOBODY;               /* two per client; one that is not to be found any more stands for a new one */
byte since[CLIENTS];            /* ticks of its own clock since the request was sent */
bool slipped[CLIENTS];          /* that clock has lost one since */
byte answer[CLIENTS];           /* what the database says is left */
byte trust[CLIENTS];            /* ticks until it stops to trust its lease */
bool trustSlipped[CLIENTS];
byte late[CLIENTS] = NOBODY;    /* a renewal under way that its client has given up */

byte j;

#ifdef NO_EXPIRY_TEST
#define FREE true
#else
#define FREE (owner == NOBODY || left == 0)
#endif

inline grant(c, ticks) {
  for (j : 0 .. CLIENTS - 1) { assert(j == c || trust[j] == 0) }
  j = 0;
  owner = id[c];
  left = ticks
}

inline hand_over() {
  if
  :: queued > 0 ->
    grant(queue[0], CONFIRM);
    for (j : 0 .. CLIENTS - 2) { queue[j] = queue[j + 1] }
    queue[CLIENTS - 1] = 0;
    j = 0;
    queued--
  :: else -> owner = NOBODY; left = 0
  fi
}

inline send(c) {
  since[c] = 0; slipped[c] = false
}

inline believe(c) {
#ifdef TRUST_FROM_REPLY
  since[c] = 0;
#endif
#ifdef HAND_OFF_AT_FULL_TTL
  answer[c] = TTL;
#endif
  if
  :: answer[c] > since[c] + MARGIN && answer[c] - since[c] - MARGIN > trust[c] ->
    trust[c] = answer[c] - since[c] - MARGIN;
    trustSlipped[c] = slipped[c]
  :: else
  fi;
  answer[c] = 0; since[c] = 0; slipped[c] = false
}

#define IS_KNOWN(c, who) (owner == who || late[c] == who)
#define IS_QUEUED(c) ((queued > 0 && queue[0] == c) || (queued > 1 && queue[1] == c) || (queued > 2 && queue[CLIENTS - 1] == c))
#ifdef RENEW_BY_NAME
#define RENEWABLE(who) (owner != NOBODY && left > 0)
#else
#define RENEWABLE(who) (owner == who && left > 0)
#endif

proctype Client(byte me) {
  do
  :: atomic { state[me] == IDLE && !(IS_KNOWN(me, 2 * me) && IS_KNOWN(me, 2 * me + 1)) ->
       id[me] = 2 * me + (IS_KNOWN(me, 2 * me) -> 1 : 0);
       send(me); state[me] = ACQUIRING
     }
  :: atomic { state[me] == ACQUIRING ->
       if
       :: FREE && queued == 0 -> d_step { grant(me, TTL) } answer[me] = TTL; state[me] = GRANTED
       :: !(FREE && queued == 0) -> queue[queued] = me; queued++; since[me] = 0; slipped[me] = false; state[me] = WAITING
       fi
     }
  :: atomic { state[me] == WAITING -> send(me); state[me] = POLLING }
  :: atomic { state[me] == POLLING ->
       if
       :: owner == id[me] && left > 0 -> answer[me] = left; state[me] = GRANTED
       :: IS_QUEUED(me) && FREE -> d_step { hand_over() } since[me] = 0; slipped[me] = false; state[me] = WAITING
       :: IS_QUEUED(me) && !FREE -> since[me] = 0; slipped[me] = false; state[me] = WAITING
       :: else -> since[me] = 0; slipped[me] = false; id[me] = NOBODY; state[me] = IDLE        /* missed */
       fi
     }
  :: atomic { state[me] == GRANTED -> d_step { believe(me) } state[me] = HOLDING }

  :: atomic { state[me] == HOLDING -> send(me); state[me] = RENEWING }
  :: atomic { state[me] == RENEWING ->
       if
       :: RENEWABLE(id[me]) ->
         left = (left > TTL -> left : TTL);
         answer[me] = left;
         state[me] = RENEWED
       :: else -> trust[me] = 0; trustSlipped[me] = false; since[me] = 0; slipped[me] = false; id[me] = NOBODY; state[me] = IDLE       /* lost */
       fi
     }
  :: atomic { state[me] == RENEWED -> d_step { believe(me) } state[me] = HOLDING }
  /* No answer: it was not executed, or nobody heard of it, or it is executed later. */
  :: atomic { (state[me] == RENEWING || state[me] == RENEWED) ->
       if
       :: LATE && state[me] == RENEWING && late[me] == NOBODY -> late[me] = id[me]
       :: true
       fi;
       answer[me] = 0; since[me] = 0; slipped[me] = false;
       state[me] = HOLDING
     }

  /* A holder lets go before it says so; one that does not trust its lease any more may just stop. */
  :: atomic { state[me] == HOLDING -> trust[me] = 0; trustSlipped[me] = false; state[me] = RELEASING }
  :: atomic { state[me] == RELEASING ->
       d_step {
         if
         :: owner == id[me] -> owner = NOBODY; hand_over()
         :: else
         fi
       }
       id[me] = NOBODY;
       state[me] = IDLE
     }
  :: atomic { state[me] == HOLDING && trust[me] == 0 -> id[me] = NOBODY; state[me] = IDLE }

  :: atomic { late[me] != NOBODY ->
       if
       :: owner == late[me] && left > 0 -> left = (left > TTL -> left : TTL)
       :: else
       fi;
       late[me] = NOBODY
     }
  od
}

/* Something is under way whose age matters. */
#define BUSY(c) (state[c] == ACQUIRING || state[c] == POLLING || state[c] == GRANTED || state[c] == RENEWING || state[c] == RENEWED)

inline tick(c) {
  if
  /* Its clock loses this tick: once for each lease that it counts. */
  :: (BUSY(c) || trust[c] > 0) && !slipped[c] && !trustSlipped[c] ->
    slipped[c] = BUSY(c);
    trustSlipped[c] = trust[c] > 0
  :: true ->
    since[c] = (BUSY(c) && since[c] < TTL -> since[c] + 1 : since[c]);
    trust[c] = (trust[c] > 0 -> trust[c] - 1 : 0);
    trustSlipped[c] = trustSlipped[c] && trust[c] > 0
  fi
}
active proctype Time() {
  do
  :: atomic {
       left = (left > 0 -> left - 1 : 0);
       tick(0);
       tick(1);
#if CLIENTS > 2
       tick(2)
#endif
     }
  od
}

init {
  atomic {
    for (j : 0 .. CLIENTS - 1) { run Client(j) }
    j = 0
  }
}
