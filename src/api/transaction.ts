import { DeadlockError, isTransactionAborted, LockError, LockLostError } from '../base/errors.ts'
import { fromJson } from '../base/json.ts'
import type { Call } from '../process/calls.ts'
import type { SharedAttempts, SharedIn } from '../process/shared-attempts.ts'
import type { TransactionAttempts, WantedIn } from '../process/transaction-attempts.ts'
import type { Claim } from '../protocol/circles.ts'
import type { MarkStore, NewMark } from '../protocol/marks.ts'
import type { Hold } from '../protocol/store.ts'
import type { Lease } from './lease.ts'
import { checkOnceBody, type OnceOptions, type OnceOutcome, onceKey, outcomeOf, toOnce, toResult } from './once.ts'
import { type LockOptions, type LockRequest, modeOf, toNames } from './options.ts'

/** A hold that ends with the transaction it was taken in. */
export interface TransactionHold {
  readonly name: string
  /** The fencing token. Publish it only after the commit: a rollback takes it back. */
  readonly token: bigint
}

/** A lease that starts with the commit of the transaction it was taken in. */
export interface PendingLease<Tx> {
  readonly name: string
  readonly owner: string
  readonly token: bigint
  /**
   * Call it after the commit: makes the lease last its whole ttl from now, and renews it. LockLostError if the transaction
   * rolled back (or has not committed yet), or if its ttl, which runs from the call of `lease`, was over before.
   */
  confirm(): Promise<Lease<Tx>>
}

export type TransactionOptions = Pick<LockOptions, 'wait' | 'signal' | 'mode' | 'holding'>
export type TransactionOnceOptions = Pick<OnceOptions, 'keepFor' | 'wait' | 'signal' | 'holding'>
export type PendingLeaseOptions = Pick<LockOptions, 'ttl' | 'wait' | 'signal' | 'holding' | 'renew' | 'maxHold'>

/**
 * Locks taken in a transaction of the caller's: with its commit or not at all. While it is open they exclude every other
 * holder, leases and transactions alike.
 */
export interface TransactionLocks<Tx> {
  /**
   * Holds the lock until `tx` commits or rolls back. Waits for it at most `wait`: LockTimeoutError, after which `tx` stays
   * usable. A deadlock of transactions, or a snapshot that is too old, is TRANSACTION_ABORTED: roll back, and retry the
   * transaction. DeadlockError at once if a lease of the caller's own has the lock. DATABASE if there is no answer within
   * `wait` and a second: roll back, too.
   *
   * Shared, it is granted beside `tx`, on another connection, and may last for another second after a rollback. UNSUPPORTED
   * where there is one connection.
   */
  acquire(name: string, options?: TransactionOptions): Promise<TransactionHold>
  /** As acquire, but null if the lock is held. Never waits, and leaves `tx` usable. Answers within one `statementTimeout`. */
  tryAcquire(name: string, options?: Pick<LockOptions, 'mode'>): Promise<TransactionHold | null>
  /**
   * Holds all these locks, from 1 to 1,000, until `tx` ends, and answers in byte order of their names. Takes them in that order,
   * so that no two such calls wait for each other; `wait` is for all. What it has when it fails stays held until `tx` ends:
   * roll back. At REPEATABLE READ and above on PostgreSQL, a lock that changes hands meanwhile is TRANSACTION_ABORTED.
   */
  acquireAll(names: readonly string[], options?: TransactionOptions): Promise<TransactionHold[]>
  /**
   * Runs `body` unless `key` is done, which it is with the commit of `tx`: exactly once in this database. Answers what the body gave,
   * or what it gave then. Holds the lock of that name until `tx` ends: a second transaction waits, `wait` at most, for the first
   * to end. Above READ COMMITTED, TRANSACTION_ABORTED: retry the transaction. If the body rejects, it is not done, whatever
   * becomes of `tx`. UnstorableResultError, and not done, if JSON cannot carry what it gave.
   */
  once<T>(
    key: string,
    options: TransactionOnceOptions,
    body: (hold: TransactionHold) => Promise<T> | T,
  ): Promise<OnceOutcome<T>>
  /** Takes an exclusive lease that nobody sees before the commit, and that outlives it. Waits as acquire does. */
  lease(name: string, options?: PendingLeaseOptions): Promise<PendingLease<Tx>>
}

/** What the caller knows of its transaction. */
export interface WithinOptions {
  /** The isolation level of `tx`. On PostgreSQL, saying that it is 'read committed' saves asking for it: one round trip. */
  readonly isolation?: 'read committed' | 'repeatable read' | 'serializable' | undefined
}

export interface TransactionContext<Tx> {
  readonly attempts: TransactionAttempts<Tx>
  readonly sharedAttempts: SharedAttempts<Tx>
  readonly marks: MarkStore<Tx>
  /** Runs what waits, so that it ends with `signal` and with the instance. */
  run<T>(signal: AbortSignal | undefined, body: (call: Call) => Promise<T>): Promise<T>
  /** Of who waits for these names, under the first of them: DeadlockError if the caller has one of the locks. */
  request(names: readonly string[], options: LockOptions | undefined): LockRequest
  /** Of who does not wait. */
  tryRequest(name: string, options: LockOptions | undefined): LockRequest
  /** What the caller holds besides its transaction. */
  claims(request: LockRequest): (() => readonly Claim[]) | undefined
  /** A lease on a hold whose transaction has committed. */
  confirm(hold: Hold, request: LockRequest): Promise<Lease<Tx>>
}

export class Transaction<Tx> implements TransactionLocks<Tx> {
  readonly #context: TransactionContext<Tx>
  readonly #tx: Tx
  readonly #isolation: WithinOptions['isolation']

  constructor(context: TransactionContext<Tx>, tx: Tx, { isolation }: WithinOptions) {
    this.#context = context
    this.#tx = tx
    this.#isolation = isolation
  }

  async acquire(name: string, options?: TransactionOptions): Promise<TransactionHold> {
    const request = this.#context.request([name], options)
    const { token } = isShared(request) ? await this.#share(request) : await this.#acquire(request, null)
    return { name, token }
  }

  async tryAcquire(name: string, options?: Pick<LockOptions, 'mode'>): Promise<TransactionHold | null> {
    const hold = isShared(this.#context.tryRequest(name, options))
      ? await this.#shareFor(undefined, { name, waitMs: null })
      : await this.#context.attempts.try(this.#tx, name)
    return hold && { name, token: hold.token }
  }

  async acquireAll(asked: readonly string[], options?: TransactionOptions): Promise<TransactionHold[]> {
    const names = toNames(asked)
    const request = this.#context.request(names, options)
    if (isShared(request)) return this.#shareAll(names, request)
    const holds = await this.#context.run(request.signal, (call) =>
      this.#context.attempts.acquireAll(call, this.#tx, names, this.#wanted(request, null)),
    )
    return holds.map(({ name, token }) => ({ name, token }))
  }

  async once<T>(
    key: string,
    options: TransactionOnceOptions,
    body: (hold: TransactionHold) => Promise<T> | T,
  ): Promise<OnceOutcome<T>> {
    checkOnceBody(body)
    const { keepMs, rest } = toOnce(key, options)
    const end = beginIn(this.#tx, key)
    try {
      return await this.#once(key, keepMs, rest, body)
    } finally {
      end()
    }
  }

  async #once<T>(
    key: string,
    keepMs: number | null,
    options: LockOptions,
    body: (hold: TransactionHold) => Promise<T> | T,
  ): Promise<OnceOutcome<T>> {
    const hold = await this.acquire(key, options)
    const { marks } = this.#context
    const mark = { ...onceKey(key), value: null, token: hold.token, keepMs }
    const before = outcomeOf<T>(await marks.beginMarkIn(this.#tx, mark))
    if (before !== undefined) return before
    try {
      const value = await body(hold)
      const result = toResult(key, value)
      if (result !== null) await marks.writeMarkIn(this.#tx, { ...mark, value: result })
      return { ran: true, value: fromJson(result) as T }
    } catch (error) {
      await this.#undo(mark, error)
      throw error
    }
  }

  /** The caller may go on to commit what else the transaction did. In one that has been aborted, nothing is left to be undone. */
  async #undo(mark: NewMark, reason: unknown): Promise<void> {
    try {
      await this.#context.marks.deleteMarkIn(this.#tx, mark)
    } catch (failure) {
      if (isTransactionAborted(failure)) return
      throw new LockError(
        'TRANSACTION_ABORTED',
        `roll back: once(${JSON.stringify(mark.name)}) has failed, and what marks it as done could not be undone`,
        { cause: new AggregateError([reason, failure]) },
      )
    }
  }

  async lease(name: string, options?: PendingLeaseOptions): Promise<PendingLease<Tx>> {
    const request = this.#context.request([name], options)
    if (isShared(request)) {
      throw new LockError(
        'UNSUPPORTED',
        'a lease that starts with a commit is exclusive: share the lock with locks.acquire, after the commit',
      )
    }
    const hold = await this.#acquire(request, Math.min(request.ttlMs, request.maxHoldMs))
    return { ...hold, confirm: () => this.#context.confirm(hold, request) }
  }

  /** One after the other, in the order that keeps two such calls from waiting for each other. */
  async #shareAll(names: readonly string[], request: LockRequest): Promise<TransactionHold[]> {
    const deadline = performance.now() + request.waitMs
    const holds: TransactionHold[] = []
    for (const name of names) {
      const { token } = await this.#share({ ...request, name, waitMs: Math.max(0, deadline - performance.now()) })
      holds.push({ name, token })
    }
    return holds
  }

  /** Null is the answer to a try, and this one waits. */
  async #share(request: LockRequest): Promise<Hold> {
    const { name, waitMs, signal } = request
    return (await this.#shareFor(signal, { name, waitMs, claims: this.#context.claims(request) })) as Hold
  }

  #shareFor(signal: AbortSignal | undefined, wanted: SharedIn): Promise<Hold | null> {
    return this.#context.run(signal, (call) => this.#context.sharedAttempts.acquire(call, this.#tx, wanted))
  }

  #acquire(request: LockRequest, ttlMs: number | null): Promise<Hold> {
    const wanted = this.#wanted(request, ttlMs)
    return this.#context.run(request.signal, (call) => this.#context.attempts.acquire(call, this.#tx, wanted))
  }

  #wanted(request: LockRequest, ttlMs: number | null): WantedIn {
    const { name, waitMs, signal } = request
    return {
      name,
      waitMs,
      ttlMs,
      readsCommitted: this.#isolation === 'read committed',
      abortable: signal !== undefined,
      claims: this.#context.claims(request),
    }
  }
}

/** Keys at which a call is, by the handles of their transactions. */
const underWay = new WeakMap<object, Set<string>>()

/** What one call has begun is not done yet: a second one in the same transaction can neither run nor wait for it. */
function beginIn(tx: unknown, key: string): () => void {
  // No handle of a transaction, as the adapter will say.
  if (Object(tx) !== tx) return () => undefined
  const keys = underWay.get(tx as object) ?? new Set()
  underWay.set(tx as object, keys)
  if (keys.has(key)) {
    throw new DeadlockError(key, 'another call of once() in this transaction is at it. Await that one before')
  }
  keys.add(key)
  return () => keys.delete(key)
}

function isShared(request: LockRequest): boolean {
  return modeOf(request) === 'shared'
}

export function confirmationFailed(name: string): LockLostError {
  return new LockLostError(
    name,
    'its transaction rolled back, has not committed yet, or took longer than the ttl; or somebody force-released it',
  )
}
