import type { Check } from './spin.ts'

const THREE = 'CLIENTS=3'
const TWO = 'CLIENTS=2'
const FOR_EVER = 'ROUNDS=0'

/** What must hold, small enough for every run of the tests. */
export const BOUNDED: readonly Check[] = [
  { name: 'three clients, each once, one dies', model: 'lock', defines: [THREE, 'CRASHES=1', 'WRITES=0'] },
  { name: 'three clients, each once, guards', model: 'lock', defines: [THREE] },
  { name: 'guards that lock out everybody', model: 'lock', defines: [THREE, 'EXCLUSIVE'] },
  {
    name: 'two clients, again and again, with a crash, a lost reply, a stall and a force-release',
    model: 'lock',
    defines: [TWO, FOR_EVER, 'CRASHES=1', 'LOSSES=1', 'STALLS=1', 'FORCES=1'],
  },
  {
    name: 'two clients, notified hand-offs',
    model: 'lock',
    defines: [TWO, 'HINTS', 'CRASHES=1', 'STALLS=1', 'LOSSES=1'],
  },
  { name: 'two clients, late requests', model: 'lock', defines: [TWO, 'CRASHES=1', 'LOSSES=1', 'LATE=1', 'STALLS=1'] },
  {
    name: 'two clients, aborts that cross a hand-off while others have the row locked',
    model: 'lock',
    defines: [TWO, 'LOCKED=2', 'CRASHES=1', 'LOSSES=1', 'HINTS'],
  },
  { name: 're-fencing', model: 'lock', defines: [TWO, 'WRITES=2', 'LOSSES=2', 'CRASHES=1', 'FORCES=1'] },
  {
    name: 'three clients, again and again: every waiter is served',
    model: 'lock',
    defines: [THREE, FOR_EVER, 'CRASHES=1', 'WRITES=0'],
    liveness: true,
  },
  { name: 'two clients: trust ends before a takeover', model: 'trust', defines: [TWO, 'TTL=3'] },
]

/** The same with three clients that come for ever, and more of what goes wrong at a time. */
export const FULL: readonly Check[] = [
  { name: 'crash', model: 'lock', defines: [THREE, FOR_EVER, 'CRASHES=1'] },
  { name: 'lost reply', model: 'lock', defines: [THREE, FOR_EVER, 'LOSSES=1'] },
  { name: 'crash and lost reply', model: 'lock', defines: [THREE, FOR_EVER, 'CRASHES=1', 'LOSSES=1'] },
  {
    name: 'crash and lost reply, guards that lock out everybody',
    model: 'lock',
    defines: [THREE, FOR_EVER, 'CRASHES=1', 'LOSSES=1', 'EXCLUSIVE'],
  },
  { name: 'stalled waiter', model: 'lock', defines: [THREE, FOR_EVER, 'STALLS=1'] },
  { name: 'force-release', model: 'lock', defines: [THREE, FOR_EVER, 'FORCES=1'] },
  {
    name: 'force-release, stalled waiter, crash',
    model: 'lock',
    defines: [THREE, 'FORCES=1', 'STALLS=1', 'CRASHES=1'],
  },
  { name: 'notified hand-offs, crash', model: 'lock', defines: [THREE, 'HINTS', 'CRASHES=1'] },
  {
    name: 'notified hand-offs, crash, lost reply, stalled waiter',
    model: 'lock',
    defines: [THREE, 'HINTS', 'CRASHES=1', 'LOSSES=1', 'STALLS=1'],
  },
  { name: 'late request, crash', model: 'lock', defines: [THREE, 'LATE=1', 'CRASHES=1'] },
  { name: 're-fencing', model: 'lock', defines: [THREE, 'WRITES=2', 'LOSSES=2'] },
  {
    name: 'every waiter is served: crash, guards',
    model: 'lock',
    defines: [THREE, FOR_EVER, 'CRASHES=1'],
    liveness: true,
  },
  {
    name: 'every waiter is served: crash, lost reply, stalled waiter',
    model: 'lock',
    defines: [THREE, FOR_EVER, 'CRASHES=1', 'LOSSES=1', 'STALLS=1', 'WRITES=0'],
    liveness: true,
  },
  {
    name: 'every waiter is served: crash, notifications late or lost',
    model: 'lock',
    defines: [THREE, FOR_EVER, 'CRASHES=1', 'HINTS', 'WRITES=0'],
    liveness: true,
  },
  { name: 'trust, three clients', model: 'trust', defines: [THREE, 'TTL=3', 'LATE=false'] },
  { name: 'trust, two clients, late renewals, a longer lease', model: 'trust', defines: [TWO, 'TTL=5'] },
]

export interface Mutant extends Check {
  /** By what the model checker must notice it. */
  readonly violates: RegExp
}

function mutant(define: string, name: string, violates: RegExp, defines = [TWO, 'LOSSES=1', 'CRASHES=1']): Mutant {
  return { name, model: 'lock', defines: [...defines, define], violates }
}

function starving(define: string, name: string, ...defines: string[]): Mutant {
  return {
    name,
    model: 'lock',
    defines: [THREE, FOR_EVER, 'CRASHES=1', 'WRITES=0', ...defines, define],
    liveness: true,
    violates: /acceptance cycle/,
  }
}

function untimely(define: string, name: string): Mutant {
  return { name, model: 'trust', defines: [TWO, 'TTL=3', define], violates: /trust\[j\]==0/ }
}

const FORGOTTEN = /queue\[i\]|owner\/\d+\)!=me/
const FIFO = /inQueue==0|ahead/
const STALE_WRITE = />=top/

/** Each is a mistake that an engine or the library could make. */
export const MUTANTS: readonly Mutant[] = [
  mutant('NO_EXPIRY_TEST', 'a lease that has not run out is taken', /owner==255\)\|\|expired/),
  mutant('RELEASE_BY_NAME', 'a release does not ask who owns the lock', /owner==id\[me\]\)&&\(token==tok\[me\]/),
  mutant('TOKEN_NOT_RAISED', 'a grant does not raise the token', /token>top/),
  mutant('GUARD_WITHOUT_LOCK', 'a guard looks at the row, but does not lock it', STALE_WRITE),
  mutant('GUARD_BY_NAME', 'a guard does not ask who owns the lock', STALE_WRITE),
  mutant('HAND_OFF_UNDER_GUARD', 'a release hands over while a guarded transaction is open', /guards==0/),
  mutant('NO_REFENCE', 'a holder goes on under its token after a commit without reply', /overtaken/, [
    TWO,
    'LOSSES=1',
    'WRITES=2',
  ]),
  mutant('TICKET_LOST', 'a ticket leaves the queue without the lock', FIFO, [THREE]),
  mutant('BARGING', 'acquire takes a free lock that others wait for', FIFO, [THREE]),
  mutant('LAST_FIRST', 'a hand-off goes to who came last', FIFO, [THREE]),
  mutant('ENQUEUED_TWICE', 'an enqueue without reply is repeated unseen', /served/, [TWO, 'LOSSES=1', 'STALLS=1']),
  mutant('NEVER_WITHDRAWN', 'a cancelled waiter stays in the queue', FORGOTTEN),
  mutant('NOT_PASSED_ON', 'a cancelled waiter keeps what it was handed meanwhile', FORGOTTEN),
  mutant('WITHDRAWN_ONCE', 'a cancelled waiter that met a locked row stays in the queue', FORGOTTEN, [TWO, 'LOCKED=1']),
  mutant('PASSED_ON_ONCE', 'what crossed an abort is passed on once, and the row was locked', FORGOTTEN, [
    TWO,
    'LOCKED=1',
  ]),
  mutant('GHOST', 'an acquire without reply is repeated as another owner', FORGOTTEN),
  mutant('NO_GIVE_BACK', 'an acquire without reply is given up, not given back', FORGOTTEN),
  mutant('MISSED_FOR_EVER', 'a waiter that missed its turn does not enqueue again', /invalid end/, [
    TWO,
    'STALLS=1',
    'PATIENT',
  ]),
  starving('NO_POLL', 'nobody polls, and the notification is lost', 'HINTS'),
  starving('DEAD_HEAD', 'a dead waiter at the head of the queue is not skipped'),
  starving('NO_TAKEOVER', 'what a dead holder holds is not handed over'),
  untimely('NO_EXPIRY_TEST', 'a lease that has not run out is taken, by the clock'),
  untimely('NO_MARGIN', 'a holder trusts its lease to the end'),
  untimely('TRUST_FROM_REPLY', 'a holder counts from the reply'),
  untimely('HAND_OFF_AT_FULL_TTL', 'a hand-off is trusted for longer than it lasts unconfirmed'),
  untimely('RENEW_BY_NAME', 'a renewal does not ask who owns the lock'),
]
