import { LockLostError } from '../base/errors.ts'
import type { Call } from '../process/calls.ts'
import type { TransactionAttempts, WantedIn } from '../process/transaction-attempts.ts'
import type { Hold } from '../protocol/store.ts'
import type { Lease } from './lease.ts'
import { checkName, type LockOptions, type LockRequest, toNames } from './options.ts'

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

export type TransactionOptions = Pick<LockOptions, 'wait' | 'signal' | 'holding'>
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
   */
  acquire(name: string, options?: TransactionOptions): Promise<TransactionHold>
  /** As acquire, but null if the lock is held. Never waits, and leaves `tx` usable. Answers within one `statementTimeout`. */
  tryAcquire(name: string): Promise<TransactionHold | null>
  /**
   * Holds all these locks, from 1 to 1,000, until `tx` ends, and answers in byte order of their names. Takes them in that order,
   * so that no two such calls wait for each other; `wait` is for all. What it has when it fails stays held until `tx` ends:
   * roll back. At REPEATABLE READ and above on PostgreSQL, a lock that changes hands meanwhile is TRANSACTION_ABORTED.
   */
  acquireAll(names: readonly string[], options?: TransactionOptions): Promise<TransactionHold[]>
  /** Takes a lease that nobody sees before the commit, and that outlives it. Waits as acquire does. */
  lease(name: string, options?: PendingLeaseOptions): Promise<PendingLease<Tx>>
}

/** What the caller knows of its transaction. */
export interface WithinOptions {
  /** The isolation level of `tx`. On PostgreSQL, saying that it is 'read committed' saves asking for it: one round trip. */
  readonly isolation?: 'read committed' | 'repeatable read' | 'serializable' | undefined
}

export interface TransactionContext<Tx> {
  readonly attempts: TransactionAttempts<Tx>
  /** Runs what waits, so that it ends with `signal` and with the instance. */
  run<T>(signal: AbortSignal | undefined, body: (call: Call) => Promise<T>): Promise<T>
  /** Of who waits for these names, under the first of them: DeadlockError if the caller has one of the locks. */
  request(names: readonly string[], options: LockOptions | undefined): LockRequest
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
    const { token } = await this.#acquire(this.#context.request([name], options), null)
    return { name, token }
  }

  async tryAcquire(name: string): Promise<TransactionHold | null> {
    const hold = await this.#context.attempts.try(this.#tx, checkName(name))
    return hold && { name, token: hold.token }
  }

  async acquireAll(asked: readonly string[], options?: TransactionOptions): Promise<TransactionHold[]> {
    const names = toNames(asked)
    const request = this.#context.request(names, options)
    const holds = await this.#context.run(request.signal, (call) =>
      this.#context.attempts.acquireAll(call, this.#tx, names, this.#wanted(request, null)),
    )
    return holds.map(({ name, token }) => ({ name, token }))
  }

  async lease(name: string, options?: PendingLeaseOptions): Promise<PendingLease<Tx>> {
    const request = this.#context.request([name], options)
    const hold = await this.#acquire(request, Math.min(request.ttlMs, request.maxHoldMs))
    return { ...hold, confirm: () => this.#context.confirm(hold, request) }
  }

  #acquire(request: LockRequest, ttlMs: number | null): Promise<Hold> {
    const wanted = this.#wanted(request, ttlMs)
    return this.#context.run(request.signal, (call) => this.#context.attempts.acquire(call, this.#tx, wanted))
  }

  #wanted({ name, waitMs, signal }: LockRequest, ttlMs: number | null): WantedIn {
    return {
      name,
      waitMs,
      ttlMs,
      readsCommitted: this.#isolation === 'read committed',
      abortable: signal !== undefined,
    }
  }
}

export function confirmationFailed(name: string): LockLostError {
  return new LockLostError(
    name,
    'its transaction rolled back, has not committed yet, or took longer than the ttl; or somebody force-released it',
  )
}
