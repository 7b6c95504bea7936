import type { LockError } from '../base/errors.ts'
import type { MarkStore } from './marks.ts'

/** One hold of a lock. */
export interface Hold {
  readonly name: string
  /** Tells the hold from all others of its lock, and is never reused: a repeated attempt is recognised by it (see ids.ts). */
  readonly owner: string
  readonly token: bigint
  /** Where a shared hold is kept; part of what it is found by. Absent: it is exclusive, and kept in the lock's row. */
  readonly slot?: number
}

/** Nothing but what a hold is found by. */
export function toHold({ name, owner, token, slot }: Omit<Hold, 'slot'> & { slot?: number | undefined }): Hold {
  return slot === undefined ? { name, owner, token } : { name, owner, token, slot }
}

/** One that others may have beside it. */
export type SharedHold = Hold & { readonly slot: number }

export function isShared<Each extends Hold>(hold: Each): hold is Each & SharedHold {
  return hold.slot !== undefined
}

/** What a name is, from its first use until it is purged. */
export type Kind = 'lock' | { readonly permits: number }

/** How much of a lock a hold takes. */
export interface Share {
  /**
   * Null: all of it, beside nobody else. Else it is shared: with `SHARED` of a lock, which has no limit, and with so many
   * permits of a semaphore.
   */
  readonly weight: number | null
}

/** The weight of a shared hold of a lock. */
export const SHARED = 1

/** What is asked for. */
export interface Demand extends Share {
  /** Null: of a lock. Else of a semaphore; it has so many permits if the database does not know it yet, or not any more. */
  readonly permits: number | null
}

/** All of a lock. */
export const EXCLUSIVE = { weight: null, permits: null } as const

export interface Attempt extends Demand {
  readonly name: string
  readonly owner: string
  /** Null: the hold ends with the transaction it was taken in. */
  readonly ttlMs: number | null
  /** Who that is, for people. */
  readonly holder: string
  /** Id of the holder's session; the hold ends with that session. Null for holds that end by expiry alone. */
  readonly session: string | null
}

/** In a transaction, holds are exclusive; of shared ones see `adoptIn`. */
export type ExclusiveAttempt = Attempt & typeof EXCLUSIVE

/** A granted hold expires `ttlMs` after some moment between the call and its answer. */
export type AttemptResult =
  | {
      readonly granted: true
      readonly token: bigint
      /** It would not have fitted beside holds that ran out, or whose session is gone, and that nobody had released. */
      readonly takeover: boolean
      /** Whether a holder has left a checkpoint; absent: that is to be looked up. Of a shared hold it says nothing. */
      readonly checkpointed?: boolean
      /** Of a shared hold. */
      readonly slot?: number
    }
  | {
      readonly granted: false
      /**
       * Who holds it by leases, for people, also by ones that have run out but that a transaction protects; none if no lease
       * was seen to be in the way, so that a statement or a transaction must have its row locked.
       */
      readonly holders: readonly string[]
      /** Others wait for it who came first, and nobody is in the way of the first of them: `promote` gives it to them. */
      readonly queued: boolean
      /** An earlier attempt of this owner had been granted, but its row is locked at this moment: ask again. */
      readonly ours?: boolean
      /** Never to be had so, whoever holds it: what the name is instead, or with how few permits. Nothing was changed. */
      readonly kind?: Kind
    }

/** An attempt in the caller's transaction. */
export type AttemptInResult =
  /** Under the owner that was asked for, or under that of a hold which this transaction has already. */
  | { readonly granted: true; readonly owner: string; readonly token: bigint }
  | {
      readonly granted: false
      /** Who holds it by leases, for people. */
      readonly holders: readonly string[]
      /** Leases wait for it that come first. If nobody holds it either, another transaction has it. */
      readonly queued: boolean
      /** It is no lock: the name is that of a semaphore. */
      readonly kind?: Kind
      /** The server ends a transaction on whose connection nothing is sent for so long; absent or 0: it does not. */
      readonly idleLimitMs?: number
    }

/**
 * A place in the queue of a lock: of a run of waiters of one process with the same terms, weight included, with nobody else's
 * in between. Each grant takes one waiter off the first ticket; which one, its process decides.
 */
export interface Ticket extends Share {
  readonly name: string
  /** How many wait. */
  readonly count: number
  readonly ticket: string
  /** Of the leases to be. */
  readonly ttlMs: number
  readonly holder: string
  readonly session: string | null
  /** Id of the process that waits, and whether hand-offs can be notified to it (see `listen`). */
  readonly process: string
  readonly listening: boolean
  /** The process has a session by which the database can tell whether it lives (see `Listening`). */
  readonly provenAlive: boolean
  /** They wait for the end of leases, and among transactions for the engine: those need not queue behind them. */
  readonly transaction: boolean
}

/** A ticket to be queued. */
export interface NewTicket extends Ticket, Demand {
  /**
   * Its waiters are added to this ticket instead if it is the last one of the queue. Of the same terms. Of several tickets for
   * one lock in one call, the first alone may have one.
   */
  readonly joins: string | null
  /** How long they wait at most. After that the ticket is dead, should nobody have withdrawn it. */
  readonly waitMs: number
}

/**
 * full: the queue would get longer than is allowed. locked: a transaction has the row locked. missing: there is no row, or
 * was none when it was to be changed.
 */
export type EnqueueResult =
  | { readonly outcome: 'queued'; readonly ticket: string; readonly view: LockView }
  | { readonly outcome: 'full' | 'locked' | 'missing' }
  /** Never to be had so: see `AttemptResult`. A queue has no tickets of which that is true. */
  | { readonly outcome: 'unfit'; readonly kind: Kind }

/**
 * A hold that was handed over. It lasts for the ttl asked for, but for `CONFIRM_MS` at most until it is renewed: who was
 * handed a lock may be gone.
 */
export interface Grant extends Hold, Share {
  readonly process: string
  readonly remainingMs: number
  /** As of an attempt, both. */
  readonly takeover: boolean
  readonly checkpointed?: boolean
}

/** How long a lock that was handed over waits for its holder to confirm it. Longer than a stall of a busy process, if possible. */
export const CONFIRM_MS = 1000

/** A hold as others see it. */
export interface Holder extends Hold, Share {
  /** Who that is, for people. */
  readonly label: string
  readonly remainingMs: number
  readonly takeover: boolean
  /** As of an attempt. */
  readonly checkpointed?: boolean
}

/** What a waiting process sees of a lock. */
export interface LockView {
  readonly name: string
  /** The highest that was granted, by now or by what was committed. */
  readonly token: bigint
  /** By their tokens. None if nobody holds it, or not by a lease. */
  readonly holders: readonly Holder[]
  /** A lease is among them that ends with its holder's session. */
  readonly bySession: boolean
  /**
   * Somebody waits, and the holds that one sees leave room for the first who is alive; or all who wait are dead, and nobody
   * holds it exclusively: time to `promote`.
   */
  readonly promotable: boolean
  /** Leases wait for it, so that transactions have to. */
  readonly leasesWait: boolean
  /** Those in its queue. */
  readonly tickets: readonly string[]
}

/** Keeps transactions from a lock for a moment. */
export interface Gate {
  readonly name: string
  /** Random id of this closing. */
  readonly by: string
}

export interface TransactionView {
  readonly name: string
  /** A transaction has it. */
  readonly taken: boolean
  /** That transaction waits for a lock itself. */
  readonly blocked: boolean
  /** Who holds it by a lease, or waits for one; null if nobody does. */
  readonly leasedTo: string | null
}

export interface Release extends Hold {
  /** Callers of this process are known to wait for it. */
  readonly awaited?: boolean
}

/** locked: ours, but a transaction has its row locked, so it could not be released now. */
export interface ReleaseResult {
  readonly outcome: 'released' | 'lost' | 'locked'
  /** The lock was handed over; the grants only if the engine can tell to whom in the same statement. */
  readonly handedOver: boolean
  readonly grants: readonly Grant[]
  /** Others wait, but it could not be handed over to the next, because a guarded transaction is still open: `promote` later. */
  readonly promoteLater: boolean
}

/**
 * handed over: to whom, if the engine can tell in the same statement. idle: nobody waits. held: by somebody who is in the way
 * of the first who waits. locked: try later.
 */
export interface Promotion {
  readonly outcome: 'handed over' | 'idle' | 'held' | 'locked'
  readonly grants: readonly Grant[]
}

/** Waiters who do not wait any more. */
export interface Withdrawal {
  readonly name: string
  readonly ticket: string
  readonly count: number
}

export interface WithdrawalResult {
  /** False: a transaction or a statement has the row locked, so they could not be taken off now. */
  readonly withdrawn: boolean
  /** What the ticket has been handed, if it has it now and has not confirmed it. */
  readonly grants: readonly Grant[]
  /** Those who left were in the way of others, for whom the holders leave room: `promote`. */
  readonly promotable?: boolean
}

/** lost: expired, or not ours. locked: a transaction has the row locked, as one that the lease guards; nothing was changed. */
export type DowngradeResult =
  | { readonly outcome: 'lost' | 'locked' }
  /** Under the same owner and token, with the same expiry. The grants are those that came in with it. */
  | { readonly outcome: 'downgraded'; readonly slot: number; readonly grants: readonly Grant[] }

/** lock: the name is a lock's, and nothing was changed. locked: try later. */
export interface ResizeResult {
  readonly outcome: 'resized' | 'lock' | 'locked'
  readonly grants: readonly Grant[]
}

/**
 * renewed: expires `remainingMs` after the call. held: still ours, but its row is locked by a transaction, so the expiry
 * stayed where it was. lost: expired, or not ours. (The fourth outcome, unknown, is the error of the call.)
 */
export interface Renewal {
  readonly outcome: 'renewed' | 'held' | 'lost'
  readonly remainingMs: number
}

/**
 * stands: until the transaction ends nobody can get the lock who has to be kept from it: of an exclusive hold nobody at all,
 * and what a shared one takes counts until then. expired: the same, but the row as this transaction sees it has run out (a
 * snapshot may be older than the last renewal). lost: the lock is not ours.
 */
export type GuardResult = 'stands' | 'expired' | 'lost'

/** A lock that is held, or a semaphore of which permits are. */
export interface LockState {
  readonly name: string
  /** Of the first of its holders. */
  readonly owner: string
  readonly token: bigint
  readonly holder: string
  readonly expiresInMs: number
  /** Callers in its queue, of all processes. */
  readonly waiters: number
  /** Of a semaphore it is shared. */
  readonly mode: 'exclusive' | 'shared'
  /** All of them, in the order of their tokens. */
  readonly holders: readonly HolderState[]
  /** Those who wait, in their order. */
  readonly queue: readonly QueueState[]
  /** Of a semaphore: how many it has. */
  readonly permits?: number
}

export interface HolderState {
  readonly owner: string
  readonly token: bigint
  readonly holder: string
  /** The permits that it takes of a semaphore; 1 of a lock. */
  readonly weight: number
  readonly expiresInMs: number
}

/** Callers of one process who wait one behind the other, for the same. */
export interface QueueState {
  readonly holder: string
  readonly mode: 'exclusive' | 'shared'
  readonly weight: number
  readonly waiters: number
  /** For how long the first of them has been waiting. */
  readonly waitingMs: number
}

/** A process that has said nothing for so long is gone, or stands still. */
export const WAITS_FRESH_MS = 2000
/** After so long nobody heeds it, whatever delays there were, and `purge` may delete it. */
export const WAITS_KEPT_MS = 60_000

export interface PublishedWaits {
  /** By the database's clock, in milliseconds since 1970. */
  readonly now: number
  readonly others: readonly {
    readonly process: string
    readonly waits: string
    /** When it said so, by the same clock. */
    readonly saidAt: number
  }[]
}

/** A statement of the caller's, in the shape of Kysely's CompiledQuery or of pg's QueryConfig. */
export interface CallerQuery {
  readonly text: string
  readonly values: readonly unknown[]
}

export interface HolderSession {
  readonly id: string
  ping(): Promise<unknown>
  /** It does not answer: ends it, for others that share the connection, too. */
  drop(): Promise<void>
  close(): Promise<void>
}

/** A session that is told of the hand-offs to its process. */
export interface Listening {
  /** As long as the session lives, the process counts as alive, and not a moment longer. */
  readonly provesLife: boolean
  /** Fails if the session is gone. Also compares clocks, because the expiry of a grant is told by the database's. */
  ping?(): Promise<void>
  drop?(): Promise<void>
  close(): Promise<void>
}

/** What a look at the server and its settings says. */
export interface Assessment {
  /** Why locks cannot be had here, and what to do about it. */
  readonly refusal: LockError | null
  /** What a crash of the server would do to locks here, although all seems well. */
  readonly warnings: readonly string[]
}

/**
 * The whole truth of one engine. One attempt per call: no sleeping, no clock but the database's, no events.
 * No call waits for a row lock but those in the caller's transaction: `acquireIn`, for as long as it is told, and `guard` and
 * `releaseIn`, bounded by the caller's settings.
 *
 * Calls that take a list answer in the same order. One that is locked, or not as expected, does not keep the others from
 * going ahead. Each name is in a list once, but for two things. Shared holds of one name may be in it several times, where they
 * are acquired (by different owners), released, renewed or guarded: that is as if they came one after the other, but one that
 * does not fit may keep out those of its name that follow. And so may tickets of one name that are queued, or left, each once:
 * they are queued in their order, next to each other.
 *
 * Holds in a list may be of both kinds, exclusive and shared: an engine may send a statement for each.
 */
export interface Store<Tx> extends MarkStore<Tx> {
  /** True if `guard` answers, and throws, synchronously. */
  readonly synchronous: boolean
  /** True if nothing can be asked beside an open transaction. */
  readonly single: boolean
  /** True if a lease cannot be renewed while a transaction that it guards is open. */
  readonly guardsStopRenewal?: boolean
  /**
   * Takes what fits beside the holds of others, and that nobody waits for. An exclusive hold fits if there is no other; a
   * shared one if none is exclusive, and the weight of all is not above the permits. Holds count until they are released,
   * have run out or their session is gone; and also then, as long as a transaction protects them: it guards them, or has
   * adopted them. Safe to repeat with the same owner: an attempt that had been granted answers with the same token, and a
   * fresh expiry. `beside` an open transaction that may have the pool's last connection, on rowlock's own.
   */
  acquire(attempts: readonly Attempt[], beside?: boolean): Promise<AttemptResult[]>
  /**
   * In the caller's transaction, exclusively: what it takes is nobody else's until `tx` ends, and not taken at all if `tx` rolls back. With
   * `ttlMs` null it is free after the commit, else a lease from then on. A lock that is held by a lease is not touched.
   *
   * Waits in the database for other transactions that have the lock, `waitMs` at most, so that the engine sees who waits for
   * whom, and breaks a deadlock. Each message to the server leaves the connection as it was, whatever the caller sends next.
   */
  acquireIn(tx: Tx, attempt: ExclusiveAttempt, waitMs: number): Promise<AttemptInResult>
  /**
   * Makes a shared hold, taken beside `tx` by `acquire` or handed over, one of `tx`: it counts until `tx` ends, whatever its
   * expiry says. It has ended after the commit, which hands over to nobody; after a rollback it is what it was. 'lost' if it
   * is not ours, or has run out. Synchronous as `guard` is.
   */
  adoptIn(tx: Tx, hold: Hold): GuardResult | Promise<GuardResult>
  /**
   * Of several locks, takes the first ones in the caller's transaction, up to one that cannot be had at once: somebody has it,
   * or waits for it. Waits for nobody. For holds that end with the transaction. Undefined: `acquireIn` is asked for each.
   */
  acquireFreeIn?(tx: Tx, attempts: readonly Attempt[]): Promise<Hold[]>
  /**
   * Makes the rows of locks that have none, from outside, if there is another connection: for a transaction that is about to
   * take a snapshot, which would not see them.
   */
  createRows?(names: readonly string[]): Promise<void>
  /**
   * Whether `tx` sees nothing but a snapshot, which its first statement takes, so that it has to wait before. Takes none
   * itself. Undefined: on this engine whoever waits for a lock sees what was committed meanwhile.
   */
  readsSnapshot?(tx: Tx): Promise<boolean>
  /**
   * Of each name, who has the lock; and whether a transaction that has it waits for another lock itself, so that whoever waits
   * for it outside of the database may be hiding a deadlock. Reads only.
   */
  pollTransactions?(names: readonly string[]): Promise<readonly TransactionView[]>
  /** For a moment, no further transaction takes these locks: leases cannot queue while transactions take turns. */
  closeGates?(gates: readonly Gate[]): Promise<void>
  /** Of those that nobody else has closed since. */
  openGates?(gates: readonly Gate[]): Promise<void>
  /**
   * Appends to the queues, in each of which `maxWaiters` may wait. A ticket for which there is no room keeps out those of its
   * name that follow. Views are of the queue with all tickets of the call.
   */
  enqueue(tickets: readonly NewTicket[], maxWaiters: number): Promise<EnqueueResult[]>
  /** Takes those who do not wait any more off their tickets. */
  withdraw(withdrawals: readonly Withdrawal[]): Promise<WithdrawalResult[]>
  /** What processes whose callers wait ask again and again. Locks without a row are left out. Reads only, locks nothing. */
  poll(names: readonly string[]): Promise<LockView[]>
  /**
   * Hands over to the first waiters that are alive, as many as fit, and removes the dead before them from the queue: to one
   * who waits for it exclusively if nobody holds it, else to all until one does not fit, who is passed by nobody. Each grant
   * has a higher token than the one before. Dead are tickets whose time is over, tickets whose process has no session any
   * more, and, if a hand-off was not confirmed in time, all tickets of the process that it went to. `process` needs no
   * notification: it gets the answer.
   */
  promote(names: readonly string[], process: string): Promise<Promotion[]>
  /**
   * Releases, and hands over as `promote` does in the same statement. Where that is cheaper, one statement
   * releases those of several holds that nobody waits for, and a second one the others.
   */
  release(holds: readonly Release[], process: string): Promise<ReleaseResult[]>
  /**
   * Shares an exclusive hold of a lock, with nobody in between, and hands over to those readers who are next. Safe to repeat.
   */
  downgrade(hold: Hold, process: string): Promise<DowngradeResult>
  /** Releases in the caller's transaction; hands over to nobody. Answers whether callers wait for the lock. */
  releaseIn(tx: Tx, hold: Hold): Promise<'lost' | { readonly awaited: boolean }>
  /** Moves the expiry of every hold to at least `ttlMs` from now, if it is still ours and has not run out. Confirms a hand-off. */
  renew(holds: readonly (Hold & { readonly ttlMs: number })[]): Promise<Renewal[]>
  /** Makes the commit of `tx` depend on the holds. Throws and answers synchronously where the driver does. */
  guard(tx: Tx, holds: readonly (Hold & { readonly ttlMs: number })[]): GuardResult[] | Promise<GuardResult[]>
  /**
   * Of a synchronous driver: throws if the transaction is over. It is before an async callback gets past its first await,
   * and what that goes on to write would commit by itself.
   */
  assertOpen?(tx: Tx): void
  /** Runs a statement of the caller's in the caller's transaction. The driver's errors come through unchanged. */
  query(tx: Tx, query: CallerQuery): Promise<readonly Record<string, unknown>[]>
  /** Guard and the caller's statement in one round trip; the statement fails if the guard does. Undefined: cannot be done. */
  guardedQuery?(tx: Tx, hold: Hold, query: CallerQuery): Promise<readonly Record<string, unknown>[]>
  /** `beside` as of `acquire`. */
  inspect(name: string, beside?: boolean): Promise<LockState | null>
  list(prefix: string): Promise<LockState[]>
  /** Makes a semaphore with so many permits if the name is not known. Answers what it is. */
  openSemaphore(name: string, permits: number): Promise<Kind>
  /**
   * Changes, or sets, how many permits the semaphore has, and hands over to those for whom there is room now. Those who wait
   * for more than there are leave the queue: their next attempt is told so. Holds stay, and while they have more than there
   * are, nobody gets any.
   */
  resize(name: string, permits: number, process: string): Promise<ResizeResult>
  /** The permits that nobody is seen to hold, which others may be waiting for; null if the name is not known. Reads only. */
  available(name: string): Promise<number | 'lock' | null>
  /**
   * Frees the lock whoever holds it, all of them, or the hold with that token alone; and raises the token of the lock. 'free' if
   * there is no such hold that has not run out, 'locked' if a transaction protects any of those.
   */
  forceRelease(name: string, token?: bigint): Promise<'released' | 'free' | 'locked'>
  /**
   * Deletes the rows of locks and semaphores that have been free for `idleMs`, and that no living caller waits for; answers
   * how many. Never one whose token is ahead of the clock. And what processes said of their waits more than `WAITS_KEPT_MS` ago.
   */
  purge(idleMs: number): Promise<number>
  /**
   * Says which calls of `process` wait while they hold something, in words of its own that the store does not read; null: none
   * do any more. Answers what other processes have said, no longer ago than `WAITS_FRESH_MS`. Asked on rowlock's own connection.
   */
  publishWaits(process: string, waits: string | null): Promise<PublishedWaits>
  /** Opens the session that session leases live by; throws UNSUPPORTED where the engine or a pooler cannot. */
  openSession(onLost: (cause: unknown) => void): Promise<HolderSession>
  /**
   * Opens a session that is told of the hand-offs to `process`, where the engine can: `onGrant` is called with each, whose
   * `remainingMs` count from that call, and `onLost` once. Undefined or UNSUPPORTED: those who wait have to look.
   */
  listen?(process: string, onGrant: (grant: Grant) => void, onLost: (cause: unknown) => void): Promise<Listening>
  /**
   * Whether locks can be had on this server, and what of its settings is a danger to them. Asked in a session like those that take
   * locks, or, `beside` an open transaction that may have the pool's last connection, on rowlock's own. Undefined: nothing can be.
   */
  assess?(beside?: boolean): Promise<Assessment>
  /** A file whose access time changes after every hand-off to another process. Undefined, or null: there is none. */
  changingFile?(): Promise<string | null>
  /** Answers the names of the migrations that it applied. */
  migrate(): Promise<string[]>
}
