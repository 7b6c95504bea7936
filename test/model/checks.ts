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
  { name: 'three readers and writers, each once, guards, downgrades', model: 'modes', defines: [THREE] },
  { name: 'three clients, three permits, each once, guards', model: 'modes', defines: [THREE, 'PERMITS=3'] },
  {
    name: 'two readers and writers, with a crash, a lost reply, a stall, a locked row and adopted holds',
    model: 'modes',
    defines: [TWO, 'CRASHES=1', 'LOSSES=1', 'STALLS=1', 'LOCKED=1', 'ADOPT'],
  },
  {
    name: 'two clients, permits that become fewer or more, grants that leave what has ended',
    model: 'modes',
    defines: [TWO, 'PERMITS=3', 'RESIZES=1', 'SPARING', 'CRASHES=1', 'LOSSES=1', 'STALLS=1', 'LOCKED=1'],
  },
  {
    name: 'a writer among readers, again and again: it is served',
    model: 'modes',
    defines: [THREE, FOR_EVER, 'PARTS', 'GUARDS=0'],
    liveness: true,
  },
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
  { name: 'readers and writers: crash, lost reply', model: 'modes', defines: [THREE, 'CRASHES=1', 'LOSSES=1'] },
  { name: 'readers and writers: adopted holds, stalled waiter', model: 'modes', defines: [THREE, 'ADOPT', 'STALLS=1'] },
  { name: 'readers and writers: force-release, locked row', model: 'modes', defines: [THREE, 'FORCES=1', 'LOCKED=1'] },
  {
    name: 'readers and writers: two of them for ever, crash, lost reply, stalled waiter',
    model: 'modes',
    defines: [TWO, FOR_EVER, 'CRASHES=1', 'LOSSES=1', 'STALLS=1'],
  },
  { name: 'permits: crash, lost reply', model: 'modes', defines: [THREE, 'PERMITS=3', 'CRASHES=1', 'LOSSES=1'] },
  {
    name: 'permits: fewer or more of them, stalled waiter',
    model: 'modes',
    defines: [THREE, 'PERMITS=3', 'RESIZES=2', 'STALLS=1'],
  },
  {
    name: 'permits: grants that leave what has ended, crash',
    model: 'modes',
    defines: [THREE, 'PERMITS=3', 'SPARING', 'CRASHES=1'],
  },
  {
    name: 'permits: two clients for ever, crash, lost reply',
    model: 'modes',
    defines: [TWO, FOR_EVER, 'PERMITS=3', 'CRASHES=1', 'LOSSES=1'],
  },
  {
    name: 'a writer among readers is served: crash, guards',
    model: 'modes',
    defines: [THREE, FOR_EVER, 'PARTS', 'CRASHES=1'],
    liveness: true,
  },
  {
    name: 'who wants many permits is served: crash, guards',
    model: 'modes',
    defines: [THREE, FOR_EVER, 'PARTS', 'PERMITS=2', 'CRASHES=1'],
    liveness: true,
  },
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

function sharing(define: string, name: string, violates: RegExp, defines = [TWO, 'LOSSES=1', 'CRASHES=1']): Mutant {
  return { name, model: 'modes', defines: [...defines, define], violates }
}

const FORGOTTEN = /queue\[i\]|owner\/\d+\)!=me/
const FIFO = /inQueue==0|ahead/
const STALE_WRITE = />=top/
const NO_ROOM = /counted\+/
const BESIDE = /taken\+part/
const NOT_BACK = /taken<=counted/
const OF_THREE = [TWO, 'PERMITS=3', 'LOSSES=1', 'CRASHES=1']

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
  sharing('EXPIRY_WITHOUT_LOCK', "a writer's grant judges the expiry without the slot's lock", NO_ROOM),
  sharing('EXPIRY_WITHOUT_LOCK', "a grant of permits judges it without the slot's lock", NO_ROOM, OF_THREE),
  sharing('GUARD_WITHOUT_LOCK', 'a guard looks at the slot, but does not lock it', NO_ROOM, OF_THREE),
  sharing('GUARD_BY_PLACE', 'a guard does not ask whose the slot is: a reader beside a writer', BESIDE, [TWO]),
  sharing('GUARD_BY_PLACE', 'a guard does not ask whose the slot is: more than the permits', BESIDE, OF_THREE),
  sharing('JUDGED_BEFORE', 'permits are counted before the row is locked', NO_ROOM, OF_THREE),
  sharing('ONE_TOO_MANY', 'a hand-over grants one more than there is room for', NO_ROOM, OF_THREE),
  sharing('SECOND_SLOT', 'a repeated attempt takes a second slot', /owner\[i\]/),
  sharing('GIVEN_BACK_TWICE', 'a repeated release gives permits back twice', /used==counted/, OF_THREE),
  sharing('UNSHARED_UNDER_GUARD', 'a release gives back what a transaction still protects', NO_ROOM, OF_THREE),
  sharing('RELEASED_NOT_TAKEN_OFF', 'what was released under a guard is never taken off', NOT_BACK, OF_THREE),
  sharing('DOWNGRADED_UNDER_GUARD', 'a downgrade lets readers in while its own transaction writes', NO_ROOM),
  sharing('DOWNGRADED_IN_TWO_STEPS', 'a downgrade lets a writer in between', NO_ROOM),
  sharing('PASSED_BY_LIGHTER', 'readers are let in past a waiting writer', FIFO, [THREE]),
  sharing('PASSED_BY_LIGHTER', 'a smaller request passes a greater one that waits', FIFO, [THREE, 'PERMITS=3']),
  sharing('LIGHTER_FIRST', 'a hand-over passes a writer for whom there is no room', FIFO, [THREE]),
  {
    name: 'readers who come for ever keep a writer waiting',
    model: 'modes',
    defines: [THREE, FOR_EVER, 'PARTS', 'GUARDS=0', 'STARVED'],
    liveness: true,
    violates: /acceptance cycle/,
  },
]
