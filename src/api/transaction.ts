import type { Outside } from '../adapters/own-connection.ts'
import { LockLostError, LockTimeoutError } from '../base/errors.ts'
import { AnswerBound } from '../process/answer-bound.ts'
import type { BeforeSnapshot, Entrance } from '../process/before-snapshot.ts'
import { type Call, TIME_OUT } from '../process/calls.ts'
import type { HandOffs } from '../process/hand-offs.ts'
import type { TransactionWaiters, Turn } from '../process/transaction-waiters.ts'
import type { HandedOver, Waiters } from '../process/waiters.ts'
import { newOwner } from '../protocol/ids.ts'
import type { Attempt, Hold, Store } from '../protocol/store.ts'
import type { Lease } from './lease.ts'
import { checkName, type LockOptions, type LockRequest } from './options.ts'

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

export type TransactionOptions = Pick<LockOptions, 'wait' | 'signal'>
export type PendingLeaseOptions = Pick<LockOptions, 'ttl' | 'wait' | 'signal' | 'renew' | 'maxHold'>

/**
 * Locks taken in a transaction of the caller's: with its commit or not at all. While it is open they exclude every other
 * holder, leases and transactions alike.
 */
export interface TransactionLocks<Tx> {
  /**
   * Holds the lock until `tx` commits or rolls back. Waits for it at most `wait`: LockTimeoutError, after which `tx` stays
   * usable. A deadlock, or a snapshot that is too old, is TRANSACTION_ABORTED: roll back, and retry the transaction. DATABASE
   * if there is no answer within `wait` and a second: roll back, too.
   */
  acquire(name: string, options?: TransactionOptions): Promise<TransactionHold>
  /** As acquire, but null if the lock is held. Never waits, and leaves `tx` usable. Answers within one `statementTimeout`. */
  tryAcquire(name: string): Promise<TransactionHold | null>
  /** Takes a lease that nobody sees before the commit, and that outlives it. Waits as acquire does. */
  lease(name: string, options?: PendingLeaseOptions): Promise<PendingLease<Tx>>
}

/** What the caller knows of its transaction. */
export interface WithinOptions {
  /** The isolation level of `tx`. On PostgreSQL, saying that it is 'read committed' saves asking for it: one round trip. */
  readonly isolation?: 'read committed' | 'repeatable read' | 'serializable' | undefined
}

export interface TransactionContext<Tx> {
  readonly store: Store<Tx>
  readonly transactionWaiters: TransactionWaiters
  readonly waiters: Waiters
  readonly handOffs: HandOffs
  readonly beforeSnapshot: BeforeSnapshot
  readonly outside: Outside
  /** Rejects if the server is known not to keep the promises. */
  assessed(): Promise<void>
  readonly holder: string
  readonly statementTimeoutMs: number
  /** Runs what waits, so that it ends with `signal` and with the instance. */
  run<T>(signal: AbortSignal | undefined, body: (call: Call) => Promise<T>): Promise<T>
  request(name: string, options: LockOptions | undefined): LockRequest
  /** A lease on a hold whose transaction has committed. */
  confirm(hold: Hold, request: LockRequest): Promise<Lease<Tx>>
}

/**
 * How long one message may wait in the database for another transaction. Longer than PostgreSQL's deadlock_timeout, or no
 * deadlock would be found; an abort is noticed after that time at the latest.
 */
const LONGEST_DATABASE_WAIT_MS = 2500
/** How often a transaction tries again that cannot be handed the lock. */
const TRY_AGAIN_MS = 50
/** A server that ends idle transactions is asked after this part of the time that it allows. */
const IDLE_PART = 1 / 3

/** Calls under way, by the handles of their transactions and the names of the locks. Each ends without an error. */
const callsIn = new WeakMap<object, Map<string, Promise<unknown>>>()

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
    const { token } = await this.#inTurn(this.#context.request(name, options), null)
    return { name, token }
  }

  async tryAcquire(name: string): Promise<TransactionHold | null> {
    const attempt = this.#attempt(checkName(name), null)
    const bound = new AnswerBound(null, this.#context.statementTimeoutMs)
    await bound.within(this.#context.assessed())
    const result = await bound.withinTransaction(this.#context.store.acquireIn(this.#tx, attempt, 0))
    if (result.granted) return { name, token: result.token }
    if (result.queued && !this.#context.store.single) this.#context.handOffs.promoteLater(name)
    return null
  }

  async lease(name: string, options?: PendingLeaseOptions): Promise<PendingLease<Tx>> {
    const request = this.#context.request(name, options)
    const ttlMs = Math.min(request.ttlMs, request.maxHoldMs)
    const hold = await this.#inTurn(request, ttlMs)
    return { ...hold, confirm: () => this.#context.confirm(hold, request) }
  }

  /** Calls for one name in one transaction follow each other: the later ones get the hold that the first one got. */
  #inTurn(request: LockRequest, ttlMs: number | null): Promise<Hold> {
    const wait = new Wait(request.name, request.waitMs)
    return this.#context.run(request.signal, async (call) => {
      const key = this.#tx as object
      // No handle of a transaction, as the adapter will say.
      if (key === null || !['object', 'function'].includes(typeof key)) return this.#acquire(call, request, wait, ttlMs)
      const calls = callsIn.get(key) ?? new Map<string, Promise<unknown>>()
      callsIn.set(key, calls)
      const before = calls.get(request.name)
      const mine = (async () => {
        if (before !== undefined) await wait.race(call, before, 'another call in this transaction')
        return this.#acquire(call, request, wait, ttlMs)
      })()
      const ended = mine.then(
        () => undefined,
        () => undefined,
      )
      calls.set(request.name, ended)
      try {
        return await mine
      } finally {
        if (calls.get(request.name) === ended) calls.delete(request.name)
      }
    })
  }

  /**
   * Behind other transactions it waits in the database, or, while it has no snapshot yet, before that. Behind leases it waits
   * in the queue, on rowlock's own connection, where transactions of this process share a ticket.
   */
  async #acquire(call: Call, request: LockRequest, wait: Wait, ttlMs: number | null): Promise<Hold> {
    const { store, transactionWaiters } = this.#context
    const { name } = request
    const attempt = this.#attempt(name, ttlMs)
    const bound = new AnswerBound(wait.leftMs, this.#context.statementTimeoutMs)
    await bound.within(this.#context.assessed())
    let turn: Turn | undefined
    let handed: HandedOver | undefined
    let entrance: Entrance | undefined
    try {
      if (request.waitMs > 0 && (await bound.withinTransaction(this.#seesSnapshot()))) {
        turn = await this.#behindLeases(call, wait, bound)
        handed = await turn?.served
        if (handed === undefined) {
          entrance = this.#context.beforeSnapshot.enter(name)
          await wait.race(call, entrance.open, 'a transaction')
        }
      }
      for (;;) {
        const databaseWaitMs =
          turn === undefined || handed !== undefined ? Math.min(wait.leftMs, LONGEST_DATABASE_WAIT_MS) : 0
        const asked = { ...attempt, owner: handed?.owner ?? attempt.owner }
        const result = await bound.withinTransaction(store.acquireIn(this.#tx, asked, databaseWaitMs))
        entrance?.leave()
        if (result.granted) {
          turn?.end(true)
          // A lease goes on under that owner: then `confirm` says when it is over.
          if (handed !== undefined && ttlMs === null) this.#context.waiters.ended(handed.owner)
          return { name, owner: result.owner, token: result.token }
        }
        if (handed !== undefined) {
          turn?.end(false)
          turn = undefined
          handed = undefined
        }
        call.throwIfCancelled()
        if (wait.leftMs === 0) throw wait.timeout(turn?.holder ?? result.holders[0] ?? 'a transaction')
        if (store.single) {
          // There is one connection, and this transaction has it: nobody could line up for it.
          await call.race(undefined, Math.min(wait.leftMs, TRY_AGAIN_MS))
          continue
        }
        if (result.holders.length === 0 && !result.queued) continue
        turn ??= transactionWaiters.join(name, wait.leftMs)
        const idleMs = (result.idleLimitMs || Number.POSITIVE_INFINITY) * IDLE_PART
        const { leftMs } = wait
        const served = await call.race(turn.served, Math.min(leftMs, idleMs))
        if (served === TIME_OUT) {
          if (leftMs <= idleMs) throw wait.timeout(turn.holder ?? result.holders[0] ?? 'a transaction')
          // Asked again for the sake of asking; and it keeps its ticket.
          continue
        }
        handed = served
        if (handed === undefined) turn = undefined
      }
    } finally {
      entrance?.leave()
      turn?.end(false)
    }
  }

  /** Waits until no lease has the lock, nor waits for it before this transaction. The turn has come, or there was no need. */
  async #behindLeases(call: Call, wait: Wait, bound: AnswerBound): Promise<Turn | undefined> {
    for (;;) {
      const holder = await bound.within(this.#leasedTo(wait.name))
      if (holder === undefined) return undefined
      const turn = this.#context.transactionWaiters.join(wait.name, wait.leftMs)
      let mine = false
      try {
        mine = (await wait.race(call, turn.served, holder)) !== undefined
      } finally {
        if (!mine) turn.end(false)
      }
      if (mine) return turn
    }
  }

  async #seesSnapshot(): Promise<boolean> {
    const { store } = this.#context
    if (store.readsSnapshot === undefined || store.single || this.#isolation === 'read committed') return false
    return store.readsSnapshot(this.#tx)
  }

  /** Who holds the lock by a lease, or waits for one; undefined if nobody does, or if that cannot be asked from outside. */
  async #leasedTo(name: string): Promise<string | undefined> {
    const [view] = (await this.#context.outside(() => this.#context.store.poll([name]))) ?? []
    if (view === undefined || (view.holders.length === 0 && !view.leasesWait)) return undefined
    return view.holders[0]?.label ?? 'others, who wait for it'
  }

  #attempt(name: string, ttlMs: number | null): Attempt {
    return { name, owner: newOwner(), ttlMs, holder: this.#context.holder, session: null }
  }
}

/** The time that a caller gives it. */
class Wait {
  readonly #started = performance.now()

  constructor(
    readonly name: string,
    readonly waitMs: number,
  ) {}

  get leftMs(): number {
    return Math.max(0, this.#started + this.waitMs - performance.now())
  }

  async race<T>(call: Call, promise: Promise<T>, holder: string): Promise<T> {
    const answer = await call.race(promise, this.leftMs)
    if (answer === TIME_OUT) throw this.timeout(holder)
    return answer
  }

  timeout(holder: string): LockTimeoutError {
    return new LockTimeoutError(this.name, performance.now() - this.#started, holder)
  }
}

export function confirmationFailed(name: string): LockLostError {
  return new LockLostError(
    name,
    'its transaction rolled back, has not committed yet, or took longer than the ttl; or somebody force-released it',
  )
}
