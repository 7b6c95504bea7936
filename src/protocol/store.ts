import type { LockError } from '../base/errors.ts'

/** One hold of a lock. */
export interface Hold {
  readonly name: string
  /** Tells the hold from all others of its lock, and is never reused: a repeated attempt is recognised by it (see ids.ts). */
  readonly owner: string
  readonly token: bigint
}

export interface Attempt {
  readonly name: string
  readonly owner: string
  /** Null: the hold ends with the transaction it was taken in. */
  readonly ttlMs: number | null
  /** Who that is, for people. */
  readonly holder: string
  /** Id of the holder's session; the hold ends with that session. Null for holds that end by expiry alone. */
  readonly session: string | null
}

/** A granted hold expires `ttlMs` after some moment between the call and its answer. */
export type AttemptResult =
  | { readonly granted: true; readonly token: bigint; readonly takeover: boolean }
  | {
      readonly granted: false
      /** Who holds it by leases, for people; none if no lease was seen, so that a transaction must have its row locked. */
      readonly holders: readonly string[]
      /** Nobody holds it, but others wait for it who came first: `promote` gives it to them. */
      readonly queued: boolean
      /** An earlier attempt of this owner had been granted, but the row is locked at this moment: ask again. */
      readonly ours?: boolean
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
      /** The server ends a transaction on whose connection nothing is sent for so long; absent or 0: it does not. */
      readonly idleLimitMs?: number
    }

/**
 * A place in the queue of a lock: of a run of waiters of one process with the same terms, with nobody else's in between. A
 * hand-off takes one waiter off the first ticket; which one, its process decides.
 */
export interface Ticket {
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
export interface NewTicket extends Ticket {
  /** Its waiters are added to this ticket instead if it is the last one of the queue. */
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

/**
 * A hold that was handed over. It lasts for the ttl asked for, but for `CONFIRM_MS` at most until it is renewed: who was
 * handed a lock may be gone.
 */
export interface Grant extends Hold {
  readonly process: string
  readonly remainingMs: number
  /** The holder before had not released it. */
  readonly takeover: boolean
}

/** How long a lock that was handed over waits for its holder to confirm it. Longer than a stall of a busy process, if possible. */
export const CONFIRM_MS = 1000

/** A hold as others see it. */
export interface Holder extends Hold {
  /** Who that is, for people. */
  readonly label: string
  readonly remainingMs: number
  readonly takeover: boolean
}

/** What a waiting process sees of a lock. */
export interface LockView {
  readonly name: string
  /** None if nobody holds it, or not by a lease. */
  readonly holders: readonly Holder[]
  /** It is held by a lease that ends with its holder's session. */
  readonly bySession: boolean
  /** Nobody holds it, and somebody waits: time to `promote`. */
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

/** locked: ours, but a transaction has the row locked, so it could not be released now. */
export interface ReleaseResult {
  readonly outcome: 'released' | 'lost' | 'locked'
  /** The lock was handed over; the grants only if the engine can tell to whom in the same statement. */
  readonly handedOver: boolean
  readonly grants: readonly Grant[]
  /** Others wait, but the lock could not be handed over, because a guarded transaction is still open: `promote` later. */
  readonly promoteLater: boolean
}

/** handed over: to whom, if the engine can tell in the same statement. idle: nobody waits. held: somebody holds it. locked: try later. */
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
 * stands: until the transaction ends nobody else can get the lock. expired: the same, but the row as this transaction
 * sees it has run out (a snapshot may be older than the last renewal). lost: the lock is not ours.
 */
export type GuardResult = 'stands' | 'expired' | 'lost'

/** A lock that is held. */
export interface LockState extends Hold {
  readonly holder: string
  readonly expiresInMs: number
  /** Callers in its queue, of all processes. */
  readonly waiters: number
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
 * Calls that take a list answer in the same order. Each name is in it once, and one that is locked, or not as expected,
 * does not keep the others from going ahead.
 */
export interface Store<Tx> {
  /** True if `guard` answers, and throws, synchronously. */
  readonly synchronous: boolean
  /** True if nothing can be asked beside an open transaction. */
  readonly single: boolean
  /** True if a lease cannot be renewed while a transaction that it guards is open. */
  readonly guardsStopRenewal?: boolean
  /**
   * Takes the locks that are free and that nobody waits for: never held, released, expired, or the holder's session gone.
   * Safe to repeat with the same owner: an attempt that had been granted answers with the same token, and a fresh expiry.
   */
  acquire(attempts: readonly Attempt[]): Promise<AttemptResult[]>
  /**
   * In the caller's transaction: what it takes is nobody else's until `tx` ends, and not taken at all if `tx` rolls back. With
   * `ttlMs` null it is free after the commit, else a lease from then on. A lock that is held by a lease is not touched.
   *
   * Waits in the database for other transactions that have the lock, `waitMs` at most, so that the engine sees who waits for
   * whom, and breaks a deadlock. Each message to the server leaves the connection as it was, whatever the caller sends next.
   */
  acquireIn(tx: Tx, attempt: Attempt, waitMs: number): Promise<AttemptInResult>
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
  /** Appends to the queues, in each of which `maxWaiters` may wait. */
  enqueue(tickets: readonly NewTicket[], maxWaiters: number): Promise<EnqueueResult[]>
  /** Takes those who do not wait any more off their ticket. */
  withdraw(withdrawals: readonly Withdrawal[]): Promise<WithdrawalResult[]>
  /** What processes whose callers wait ask again and again. Locks without a row are left out. Reads only, locks nothing. */
  poll(names: readonly string[]): Promise<LockView[]>
  /**
   * If nobody holds the lock, gives it to the first waiter that is alive, and removes those before it from the queue. Dead
   * are tickets whose time is over, tickets whose process has no session any more, and, if the last hand-off was not
   * confirmed in time, all tickets of the process that it went to. `process` needs no notification: it gets the answer.
   */
  promote(names: readonly string[], process: string): Promise<Promotion[]>
  /**
   * Releases, and hands over to the first waiter that is alive in the same statement. Where that is cheaper, one statement
   * releases those of several holds that nobody waits for, and a second one the others.
   */
  release(holds: readonly Release[], process: string): Promise<ReleaseResult[]>
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
  inspect(name: string): Promise<LockState | null>
  list(prefix: string): Promise<LockState[]>
  /** Frees the lock whoever holds it, and raises the token. 'locked' as for release. */
  forceRelease(name: string): Promise<'released' | 'free' | 'locked'>
  /**
   * Deletes the rows of locks that have been free for `idleMs`, and that no living caller waits for; answers how many. Never
   * one whose token is ahead of the clock.
   */
  purge(idleMs: number): Promise<number>
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
