/** One attempt to hold a lock, and what it may become. */
export interface Hold {
  readonly name: string
  /** Random 128-bit id of one attempt, never reused: a repeated attempt is recognised by it. */
  readonly owner: string
  readonly token: bigint
}

export interface Attempt {
  readonly name: string
  readonly owner: string
  /** Null: the hold ends with the transaction it was taken in. */
  readonly ttlMs: number | null
  /** Shown to people by inspect. */
  readonly holder: string
  /** Id of the holder's session; the hold ends with that session. Null for holds that end by expiry alone. */
  readonly session: string | null
}

/** A granted hold expires `ttlMs` after some moment between the call and its answer. */
export type AttemptResult =
  | { readonly granted: true; readonly token: bigint; readonly takeover: boolean }
  | {
      readonly granted: false
      /** Who holds it by a lease; null if no lease was seen, so that a transaction must have its row locked. */
      readonly holder: string | null
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

export interface LockState extends Hold {
  readonly holder: string
  readonly expiresInMs: number
}

/** A statement of the caller's, in the shape of Kysely's CompiledQuery or of pg's QueryConfig. */
export interface CallerQuery {
  readonly text: string
  readonly values: readonly unknown[]
}

export interface HolderSession {
  readonly id: string
  ping(): Promise<unknown>
  close(): Promise<void>
}

/**
 * The whole truth of one engine. One attempt per call: no sleeping, no clock but the database's, no events.
 * No call waits for a row lock but `guard`, which runs in the caller's transaction and is bounded by the caller's settings.
 */
export interface Store<Tx> {
  /** True if `guard` answers, and throws, synchronously. */
  readonly synchronous: boolean
  /** True if nothing can be asked beside an open transaction. */
  readonly single: boolean
  /**
   * Takes the lock if it is free: never held, released, expired, or its holder's session gone. Safe to repeat with the
   * same owner: an attempt that had been granted answers with the same token, and a fresh expiry.
   */
  acquire(attempt: Attempt): Promise<AttemptResult>
  /**
   * The same in the caller's transaction: what it takes is nobody else's until `tx` ends, and not taken at all if `tx` rolls
   * back. With `ttlMs` null it is free after the commit, else a lease from then on. A lock that is held is not touched.
   */
  acquireIn(tx: Tx, attempt: Attempt): Promise<AttemptResult>
  /**
   * Waits in the database, at most `waitMs`, for another transaction that has the row locked, then attempts. So the engine
   * sees who waits for whom, and breaks a deadlock. Undefined: there is nothing to wait in.
   */
  acquireBehind?(tx: Tx, attempt: Attempt, waitMs: number): Promise<AttemptResult>
  /** Releases in the caller's transaction. False: not ours. */
  releaseIn(tx: Tx, hold: Hold): Promise<boolean>
  /** Moves the expiry of every hold to at least `ttlMs` from now, if it is still ours and has not run out. */
  renew(holds: readonly (Hold & { readonly ttlMs: number })[]): Promise<Renewal[]>
  /** 'locked': ours, but a transaction has the row locked, so it could not be released now. */
  release(hold: Hold): Promise<'released' | 'lost' | 'locked'>
  /** Makes the commit of `tx` depend on the hold. Throws and answers synchronously where the driver does. */
  guard(tx: Tx, hold: Hold & { readonly ttlMs: number }): GuardResult | Promise<GuardResult>
  /**
   * Of a synchronous driver: throws if the transaction is over. It is before an async callback gets past its first await,
   * and what that goes on to write would commit by itself.
   */
  assertOpen?(tx: Tx): void
  /** Runs a statement of the caller's in the caller's transaction. The driver's errors come through unchanged. */
  query(tx: Tx, query: CallerQuery): Promise<readonly Record<string, unknown>[]>
  /** Guard and the caller's statement in one round trip; the statement fails if the guard does. Undefined: cannot be done. */
  guardedQuery?(tx: Tx, hold: Hold, query: CallerQuery): Promise<readonly Record<string, unknown>[]>
  /** Which of these names may be free. Reads only, locks nothing. */
  free(names: readonly string[]): Promise<Set<string>>
  inspect(name: string): Promise<LockState | null>
  list(prefix: string): Promise<LockState[]>
  /** Frees the lock whoever holds it, and raises the token. 'locked' as for release. */
  forceRelease(name: string): Promise<'released' | 'free' | 'locked'>
  /** Deletes the rows of locks that have been free for `idleMs`; answers how many. Never one whose token is ahead of the clock. */
  purge(idleMs: number): Promise<number>
  /** Opens the session that session leases live by; throws UNSUPPORTED where the engine or a pooler cannot. */
  openSession(onLost: (cause: unknown) => void): Promise<HolderSession>
  /** Answers the names of the migrations that it applied. */
  migrate(): Promise<string[]>
}
