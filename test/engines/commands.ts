import fc from 'fast-check'

/** Enough for calls about one lock, and about several of which not all are the same. */
export const NAMES = ['lock:a', 'lock:b', 'c'] as const
export const PEERS = 2
export const PROCESSES = 3
export const HOUR_MS = 60 * 60_000
/** Of a hand-off it is the end even before it would have to be confirmed. */
const SHORT_TTL_MS = 800
const MANY = 1_000_000

export type Name = (typeof NAMES)[number]
/** Of a session that lasts, or of one that is gone. */
export type Session = 'none' | 'living' | 'gone'
/** Whose attempt it is: a new one, the holder's again, or that of the last who does not hold the lock any more. */
export type WhichOwner = 'new' | 'holder' | 'former'
/** What the holder has, or what only resembles it. */
export type WhichHold = 'held' | 'of another owner' | 'of another token' | 'of another slot' | 'former'
/** Exclusively, or, of a semaphore, and of a lock that is shared, so much; or as if it were the other of these two. */
export type How = 'exclusively' | 'shared' | 'as what it is not'
/** Whose hold is forced to end: that of whoever has the lock, or of the holder with that token. */
export type WhichToken = 'any' | 'of a holder' | 'of a former one' | 'of nobody'
export type WhichTicket = 'first' | 'last' | 'handed over' | 'unknown'

export interface AskedShare {
  readonly how: How
  readonly weight: number
}

export interface AskedAttempt extends AskedShare {
  readonly name: Name
  readonly owner: WhichOwner
  readonly ttlMs: number
  readonly holder: string
  readonly session: Session
}

export interface AskedWithin {
  readonly name: Name
  readonly owner: WhichOwner
  readonly ttlMs: number | null
}

export interface AskedTicket extends AskedShare {
  readonly name: Name
  readonly joins: 'nothing' | 'the last' | 'another'
  readonly count: number
  readonly ttlMs: number
  readonly holder: string
  readonly session: Session
  readonly process: number
  readonly listening: boolean
  readonly provenAlive: boolean
  readonly transaction: boolean
  readonly waitMs: number
}

export interface AskedHold {
  readonly name: Name
  readonly which: WhichHold
  /** Of several holders, which one. */
  readonly nth: number
}

export interface AskedLease extends AskedHold {
  readonly ttlMs: number
}

export interface AskedRelease extends AskedHold {
  readonly awaited: boolean
}

export interface AskedWithdrawal {
  readonly name: Name
  readonly which: WhichTicket
  readonly count: number
}

/** A call of a process. Whom it means depends on the locks at that moment. */
export type Call = { readonly peer: number } & (
  | { readonly verb: 'acquire'; readonly attempts: readonly AskedAttempt[]; readonly alike: boolean }
  | { readonly verb: 'enqueue'; readonly tickets: readonly AskedTicket[]; readonly maxWaiters: number }
  | { readonly verb: 'withdraw'; readonly withdrawals: readonly AskedWithdrawal[] }
  | { readonly verb: 'poll'; readonly names: readonly Name[] }
  | { readonly verb: 'promote'; readonly names: readonly Name[]; readonly process: number }
  | { readonly verb: 'release'; readonly holds: readonly AskedRelease[]; readonly process: number }
  | { readonly verb: 'renew'; readonly holds: readonly AskedLease[] }
  | { readonly verb: 'forceRelease'; readonly name: Name; readonly token: WhichToken; readonly nth: number }
  | { readonly verb: 'inspect'; readonly name: Name }
  | { readonly verb: 'list'; readonly prefix: string }
  | { readonly verb: 'purge'; readonly idleMs: number }
  | { readonly verb: 'downgrade'; readonly hold: AskedHold; readonly process: number }
  | { readonly verb: 'openSemaphore'; readonly name: Name; readonly permits: number }
  | { readonly verb: 'resize'; readonly name: Name; readonly permits: number; readonly process: number }
  | { readonly verb: 'available'; readonly name: Name }
)

/** In the transaction that is open, or in one that is begun for it. */
export type CallIn =
  | { readonly verb: 'guard'; readonly holds: readonly AskedLease[] }
  | { readonly verb: 'acquireIn'; readonly attempt: AskedWithin }
  | { readonly verb: 'releaseIn'; readonly hold: AskedHold }
  | { readonly verb: 'adoptIn'; readonly hold: AskedHold }

export type Command =
  | Call
  | CallIn
  | { readonly verb: 'end'; readonly commit: boolean }
  /** In a transaction of its own, which ends at once, whether another one is open or not. */
  | { readonly verb: 'acquireIn beside'; readonly attempt: AskedWithin; readonly commit: boolean }
  | { readonly verb: 'lease runs out'; readonly name: Name; readonly nth: number }
  | { readonly verb: 'ticket runs out'; readonly name: Name; readonly position: number }
  | { readonly verb: 'clock is set back'; readonly name: Name }

/** Mostly the same one, so that a lot happens to it. */
const name = fc.oneof(
  { weight: 6, arbitrary: fc.constant(NAMES[0]) },
  { weight: 2, arbitrary: fc.constant(NAMES[1]) },
  { weight: 1, arbitrary: fc.constant(NAMES[2]) },
)
const peer = fc.nat(PEERS - 1)
const process = fc.nat(PROCESSES - 1)
const holder = fc.constantFrom('alice', 'bob')
const session = fc.oneof(
  { weight: 4, arbitrary: fc.constant<Session>('none') },
  { weight: 1, arbitrary: fc.constantFrom<Session>('living', 'gone') },
)
const ttlMs = fc.constantFrom(HOUR_MS, 2 * HOUR_MS)
const owner = fc.oneof(
  { weight: 4, arbitrary: fc.constant<WhichOwner>('new') },
  { weight: 2, arbitrary: fc.constant<WhichOwner>('holder') },
  { weight: 1, arbitrary: fc.constant<WhichOwner>('former') },
)
const which = fc.oneof(
  { weight: 4, arbitrary: fc.constant<WhichHold>('held') },
  {
    weight: 1,
    arbitrary: fc.constantFrom<WhichHold>('of another owner', 'of another token', 'of another slot', 'former'),
  },
)
const nth = fc.nat(2)
const token = fc.oneof(
  { weight: 2, arbitrary: fc.constant<WhichToken>('any') },
  { weight: 2, arbitrary: fc.constant<WhichToken>('of a holder') },
  { weight: 1, arbitrary: fc.constantFrom<WhichToken>('of a former one', 'of nobody') },
)
const hold = fc.record({ name, which, nth })
const share = {
  how: fc.oneof(
    { weight: 4, arbitrary: fc.constant<How>('exclusively') },
    { weight: 6, arbitrary: fc.constant<How>('shared') },
    { weight: 1, arbitrary: fc.constant<How>('as what it is not') },
  ),
  // More than there may be, or nothing.
  weight: fc.oneof(
    { weight: 8, arbitrary: fc.integer({ min: 1, max: 2 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 5 }) },
  ),
}
const permits = fc.integer({ min: 1, max: 4 })
/** More than what is left, or less. */
const leaseMs = fc.constantFrom(HOUR_MS / 2, HOUR_MS, 3 * HOUR_MS)
const lease = fc.record({ name, which, nth, ttlMs: leaseMs })

/** One, or several about as many locks: engines have statements for each. */
function each<Asked extends { readonly name: Name }>(asked: fc.Arbitrary<Asked>): fc.Arbitrary<Asked[]> {
  return fc.oneof(
    asked.map((one) => [one]),
    fc.uniqueArray(asked, { minLength: 1, maxLength: NAMES.length, size: 'max', selector: ({ name }) => name }),
  )
}

/** Or several about one lock, too. */
function some<Asked extends { readonly name: Name }>(asked: fc.Arbitrary<Asked>): fc.Arbitrary<Asked[]> {
  return fc.oneof(each(asked), fc.array(asked, { minLength: 2, maxLength: 4, size: 'max' }))
}

const names = fc.oneof(
  name.map((one) => [one]),
  fc.shuffledSubarray([...NAMES], { minLength: 1 }),
)

const seldom = fc.oneof({ weight: 3, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) })

const attempt = fc.record<AskedAttempt>({ name, ...share, owner, ttlMs: leaseMs, holder, session })

const ticket = fc.record<AskedTicket>({
  name,
  ...share,
  joins: fc.constantFrom('nothing', 'the last', 'another'),
  count: fc.integer({ min: 1, max: 3 }),
  ttlMs: fc.oneof({ weight: 4, arbitrary: ttlMs }, { weight: 1, arbitrary: fc.constant(SHORT_TTL_MS) }),
  holder,
  session,
  process,
  listening: fc.boolean(),
  provenAlive: seldom,
  transaction: seldom,
  waitMs: fc.constantFrom(HOUR_MS, 2 * HOUR_MS),
})

const within = fc.record<AskedWithin>({
  name,
  owner: fc.constantFrom('new', 'holder', 'former'),
  ttlMs: fc.constantFrom(null, HOUR_MS, 2 * HOUR_MS),
})

const weighted: readonly (readonly [number, fc.Arbitrary<Command>])[] = [
  [5, fc.record({ verb: fc.constant('acquire'), peer, attempts: each(attempt), alike: fc.boolean() })],
  [
    5,
    fc.record({
      verb: fc.constant('enqueue'),
      peer,
      tickets: some(ticket),
      maxWaiters: fc.oneof({ weight: 3, arbitrary: fc.constant(MANY) }, { weight: 1, arbitrary: fc.constant(3) }),
    }),
  ],
  [
    3,
    fc.record({
      verb: fc.constant('withdraw'),
      peer,
      withdrawals: some(
        fc.record({
          name,
          which: fc.constantFrom<WhichTicket>('first', 'last', 'handed over', 'unknown'),
          count: fc.integer({ min: 1, max: 4 }),
        }),
      ),
    }),
  ],
  [1, fc.record({ verb: fc.constant('poll'), peer, names })],
  [3, fc.record({ verb: fc.constant('promote'), peer, names, process })],
  [
    5,
    fc.record({
      verb: fc.constant('release'),
      peer,
      holds: each(fc.record({ name, which, nth, awaited: fc.boolean() })),
      process,
    }),
  ],
  [3, fc.record({ verb: fc.constant('renew'), peer, holds: each(lease) })],
  [2, fc.record({ verb: fc.constant('forceRelease'), peer, name, token, nth })],
  [1, fc.record({ verb: fc.constant('inspect'), peer, name })],
  [1, fc.record({ verb: fc.constant('list'), peer, prefix: fc.constantFrom('', 'lock:', 'lock:b', 'd') })],
  [2, fc.record({ verb: fc.constant('purge'), peer, idleMs: fc.constantFrom(0, HOUR_MS, 24 * HOUR_MS) })],
  [3, fc.record({ verb: fc.constant('guard'), holds: each(lease) })],
  [3, fc.record({ verb: fc.constant('acquireIn'), attempt: within })],
  [2, fc.record({ verb: fc.constant('releaseIn'), hold })],
  [3, fc.record({ verb: fc.constant('adoptIn'), hold })],
  [3, fc.record({ verb: fc.constant('downgrade'), peer, hold, process })],
  [1, fc.record({ verb: fc.constant('openSemaphore'), peer, name, permits })],
  [1, fc.record({ verb: fc.constant('resize'), peer, name, permits, process })],
  [1, fc.record({ verb: fc.constant('available'), peer, name })],
  [5, fc.record({ verb: fc.constant('end'), commit: fc.boolean() })],
  [2, fc.record({ verb: fc.constant('acquireIn beside'), attempt: within, commit: fc.boolean() })],
  [3, fc.record({ verb: fc.constant('lease runs out'), name, nth })],
  [3, fc.record({ verb: fc.constant('ticket runs out'), name, position: fc.nat(2) })],
  [1, fc.record({ verb: fc.constant('clock is set back'), name })],
]

export const command: fc.Arbitrary<Command> = fc.oneof(
  ...weighted.map(([weight, arbitrary]) => ({ weight, arbitrary })),
)

const WAITER: AskedTicket = {
  name: NAMES[0],
  how: 'exclusively',
  weight: 1,
  joins: 'nothing',
  count: 1,
  ttlMs: HOUR_MS,
  holder: 'alice',
  session: 'none',
  process: 0,
  listening: false,
  provenAlive: false,
  transaction: false,
  waitMs: HOUR_MS,
}
const HOLDER: AskedAttempt = {
  name: NAMES[0],
  how: 'exclusively',
  weight: 1,
  owner: 'new',
  ttlMs: HOUR_MS,
  holder: 'alice',
  session: 'none',
}

/**
 * What is seldom drawn: a lease is released to the second of three, as the others have waited for long enough; and of a
 * semaphore nothing is left.
 */
export const SELDOM: Command[] = [
  { verb: 'acquire', peer: 0, attempts: [HOLDER], alike: false },
  { verb: 'enqueue', peer: 0, tickets: [WAITER], maxWaiters: MANY },
  { verb: 'enqueue', peer: 1, tickets: [WAITER], maxWaiters: MANY },
  { verb: 'enqueue', peer: 0, tickets: [WAITER], maxWaiters: MANY },
  { verb: 'ticket runs out', name: NAMES[0], position: 0 },
  { verb: 'ticket runs out', name: NAMES[0], position: 2 },
  { verb: 'release', peer: 0, holds: [{ name: NAMES[0], which: 'held', nth: 0, awaited: true }], process: 0 },
  { verb: 'openSemaphore', peer: 0, name: NAMES[1], permits: 1 },
  { verb: 'acquire', peer: 0, attempts: [{ ...HOLDER, name: NAMES[1], how: 'shared' }], alike: false },
  { verb: 'available', peer: 1, name: NAMES[1] },
]
