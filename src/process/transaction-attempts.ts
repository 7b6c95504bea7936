import type { Outside } from '../adapters/own-connection.ts'
import { LockTimeoutError } from '../base/errors.ts'
import type { Claim } from '../protocol/circles.ts'
import { newOwner } from '../protocol/ids.ts'
import {
  type AttemptInResult,
  EXCLUSIVE,
  type ExclusiveAttempt,
  type Hold,
  type Store,
  type TransactionView,
} from '../protocol/store.ts'
import { AnswerBound } from './answer-bound.ts'
import type { BeforeSnapshot, Entrance } from './before-snapshot.ts'
import { type Call, TIME_OUT } from './calls.ts'
import type { Deadlocks } from './deadlocks.ts'
import type { HandOffs } from './hand-offs.ts'
import { misuse } from './misuse.ts'
import { claimsIn, taken, whenTaken } from './transaction-holds.ts'
import type { TransactionWaiters, Turn } from './transaction-waiters.ts'
import type { HandedOver, Waiters } from './waiters.ts'

export interface TransactionAttemptsContext<Tx> {
  readonly store: Store<Tx>
  readonly transactionWaiters: TransactionWaiters
  readonly waiters: Waiters
  readonly handOffs: HandOffs
  readonly beforeSnapshot: BeforeSnapshot
  readonly outside: Outside
  readonly deadlocks: Deadlocks
  /** Who we are, for people. */
  readonly holder: string
  readonly statementTimeoutMs: number
  /** Rejects if the server is known not to keep the promises. */
  assessed(): Promise<void>
}

/** What a transaction wants to have of a lock. */
export interface WantedIn {
  readonly name: string
  readonly waitMs: number
  /** Null: until the transaction ends. */
  readonly ttlMs: number | null
  /** It sees what others commit meanwhile: that need not be asked. */
  readonly readsCommitted: boolean
  /** The caller may end the wait: it is to be noticed soon. */
  readonly abortable: boolean
  /** What the caller holds besides. */
  readonly claims?: (() => readonly Claim[]) | undefined
}

/**
 * How long one message may wait in the database for another transaction. Longer than PostgreSQL's deadlock_timeout, or no
 * deadlock would be found. Of a caller who may abort it is all of them, since that is noticed between two messages. Those of
 * others are twice as long each time: many who wait send little, and a driver's own limit of a query is met late, if at all.
 */
const DATABASE_WAIT_MS = 2500
const LONGEST_DATABASE_WAIT_MS = 20_000
/** How often a transaction tries again that cannot be handed the lock. */
const TRY_AGAIN_MS = 50
/** A server that ends idle transactions is asked after this part of the time that it allows. */
const IDLE_PART = 1 / 3

/** Another call in the same transaction has the lock. */
const TAKEN = Symbol('taken')

/** Calls under way, by the handles of their transactions and the names of the locks. Each ends without an error. */
const callsIn = new WeakMap<object, Map<string, Promise<unknown>>>()

/** How transactions of this process get locks: in the database among each other, and in the queue behind leases. */
export class TransactionAttempts<Tx> {
  readonly #context: TransactionAttemptsContext<Tx>
  /** The last transaction that was asked saw a snapshot, so the next one probably does. */
  #expectsSnapshot = false

  constructor(context: TransactionAttemptsContext<Tx>) {
    this.#context = context
  }

  /** Null if the lock is held. */
  async try(tx: Tx, name: string): Promise<Hold | null> {
    const { store, handOffs, statementTimeoutMs } = this.#context
    const bound = new AnswerBound(null, statementTimeoutMs)
    await bound.within(this.#context.assessed())
    const result = await bound.withinTransaction(store.acquireIn(tx, this.#attempt(name, null), 0))
    if (result.granted) {
      const hold = { name, owner: result.owner, token: result.token }
      taken(tx, hold)
      return hold
    }
    if (result.kind !== undefined) throw misuse(name, EXCLUSIVE, result.kind)
    if (result.queued && !store.single) handOffs.promoteLater(name)
    return null
  }

  /** Calls for one name in one transaction follow each other: the later ones get the hold that the first one got. */
  async acquire(call: Call, tx: Tx, wanted: WantedIn): Promise<Hold> {
    const wait = new Wait(wanted.name, wanted.waitMs)
    const key = tx as object
    // No handle of a transaction, as the adapter will say.
    if (key === null || !['object', 'function'].includes(typeof key)) return this.#acquire(call, tx, wanted, wait)
    const calls = callsIn.get(key) ?? new Map<string, Promise<unknown>>()
    callsIn.set(key, calls)
    const before = calls.get(wanted.name)
    const mine = (async () => {
      if (before !== undefined) await wait.race(call, before, 'another call in this transaction')
      return this.#acquire(call, tx, wanted, wait)
    })()
    const ended = mine.then(
      () => undefined,
      () => undefined,
    )
    calls.set(wanted.name, ended)
    try {
      return await mine
    } finally {
      if (calls.get(wanted.name) === ended) calls.delete(wanted.name)
    }
  }

  /**
   * All of these locks, each once and in byte order: what can be had at once in one message, and what cannot as a single lock,
   * with those before it held. So no two such transactions wait for each other, and the engine sees all that they wait for.
   */
  async acquireAll(call: Call, tx: Tx, names: readonly string[], wanted: Omit<WantedIn, 'name'>): Promise<Hold[]> {
    const { store, statementTimeoutMs } = this.#context
    const deadline = performance.now() + wanted.waitMs
    const bound = new AnswerBound(wanted.waitMs, statementTimeoutMs)
    await bound.within(this.#context.assessed())
    const holds: Hold[] = []
    const acquireNext = async (readsCommitted: boolean) => {
      const waitMs = Math.max(0, deadline - performance.now())
      holds.push(await this.acquire(call, tx, { ...wanted, name: names[holds.length]!, waitMs, readsCommitted }))
    }
    if (await bound.withinTransaction(this.#readsSnapshot(tx, wanted))) {
      // The first is waited for before there is a snapshot; those that change hands after it was taken end the transaction.
      if (store.createRows !== undefined) await bound.within(store.createRows(names))
      await acquireNext(false)
    }
    while (holds.length < names.length) {
      const rest = names.slice(holds.length).map((name) => this.#attempt(name, null))
      if (rest.length > 1 && store.acquireFreeIn !== undefined) {
        const free = await bound.withinTransaction(store.acquireFreeIn(tx, rest))
        for (const hold of free) taken(tx, hold)
        holds.push(...free)
      }
      call.throwIfCancelled()
      if (holds.length < names.length) await acquireNext(true)
    }
    return holds
  }

  /**
   * Behind other transactions it waits in the database, or, while it has no snapshot yet, before that. Behind leases it waits
   * in the queue, on rowlock's own connection, where transactions of this process share a ticket.
   */
  async #acquire(call: Call, tx: Tx, wanted: WantedIn, wait: Wait): Promise<Hold> {
    const { store, transactionWaiters, waiters } = this.#context
    const { name, waitMs, ttlMs } = wanted
    const attempt = this.#attempt(name, ttlMs)
    const bound = new AnswerBound(wait.leftMs, this.#context.statementTimeoutMs)
    await bound.within(this.#context.assessed())
    let turn: Turn | undefined
    let handed: HandedOver | undefined
    let entrance: Entrance | undefined
    let longestMs = DATABASE_WAIT_MS
    try {
      if (waitMs > 0) {
        const seen = await bound.withinTransaction(this.#beforeSnapshot(tx, wanted))
        if (seen !== undefined) {
          if (seen.leasedTo !== null) {
            turn = await this.#inQueue(call, tx, wanted, this.#behindLeases(call, wait, bound, seen.leasedTo))
          }
          handed = await turn?.served
          if (handed === undefined) {
            entrance = this.#context.beforeSnapshot.enter(name, turn === undefined ? seen : undefined)
            await wait.race(call, entrance.open, 'a transaction')
          }
        }
      }
      for (;;) {
        // Whoever has stopped listening would not hear of what is sent now.
        call.throwIfCancelled()
        const mayWait = turn === undefined || handed !== undefined
        const asked = { ...attempt, owner: handed?.owner ?? attempt.owner }
        const answer = bound.withinTransaction(
          store.acquireIn(tx, asked, mayWait ? Math.min(wait.leftMs, longestMs) : 0),
        )
        const result = await (wanted.abortable ? answer : endingWith(call, answer))
        if (mayWait && !wanted.abortable) longestMs = Math.min(longestMs * 2, LONGEST_DATABASE_WAIT_MS)
        entrance?.leave()
        if (result.granted) {
          turn?.end(true)
          const hold = { name, owner: result.owner, token: result.token }
          taken(tx, hold)
          // A lease goes on under that owner: then `confirm` says when it is over.
          if (handed !== undefined && ttlMs === null) waiters.ended(handed.owner)
          return hold
        }
        if (result.kind !== undefined) throw misuse(name, EXCLUSIVE, result.kind)
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
        const served = await this.#inQueue(
          call,
          tx,
          wanted,
          call.race(this.#untilServed(tx, name, turn), Math.min(leftMs, idleMs)),
        )
        if (served === TAKEN) continue
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

  /** Others may wait for what the transaction has, and it for what they have: of that the engine sees nothing. */
  async #inQueue<T>(call: Call, tx: Tx, { name, claims }: WantedIn, wait: Promise<T>): Promise<T> {
    const unwatch = this.#context.deadlocks.watch({
      name,
      weight: EXCLUSIVE.weight,
      claims: () => [...claimsIn(tx, name), ...(claims?.() ?? [])],
      reject: (error) => call.cancel(error),
    })
    return wait.finally(unwatch)
  }

  /** Also ends when another call in the transaction, one that does not wait, gets the lock: nobody would hand it over then. */
  async #untilServed(tx: Tx, name: string, { served }: Turn): Promise<Awaited<Turn['served']> | typeof TAKEN> {
    let stop: (() => void) | undefined
    const takenByAnother = new Promise<typeof TAKEN>((resolve) => {
      stop = whenTaken(tx as object, { name, onTaken: () => resolve(TAKEN) })
    })
    return Promise.race([served, takenByAnother]).finally(stop)
  }

  /**
   * How the lock is seen from outside, for a transaction that has yet to take the snapshot which is all that it sees;
   * undefined for others. Where that is to be expected, both are asked at once.
   */
  async #beforeSnapshot(tx: Tx, wanted: WantedIn): Promise<TransactionView | undefined> {
    const looking = this.#expectsSnapshot && !wanted.readsCommitted ? this.#look(wanted.name) : undefined
    // Looked at below, if at all.
    looking?.catch(() => undefined)
    return (await this.#readsSnapshot(tx, wanted)) ? (looking ?? this.#look(wanted.name)) : undefined
  }

  async #readsSnapshot(tx: Tx, { readsCommitted }: Pick<WantedIn, 'readsCommitted'>): Promise<boolean> {
    const { store } = this.#context
    if (store.readsSnapshot === undefined || store.single || readsCommitted) return false
    this.#expectsSnapshot = await store.readsSnapshot(tx)
    return this.#expectsSnapshot
  }

  async #look(name: string): Promise<TransactionView> {
    const { store, outside } = this.#context
    const seen = await outside(async () => store.pollTransactions?.([name]))
    // Where it cannot be asked from outside, those who wait do so in the database.
    return seen?.[0] ?? { name, taken: true, blocked: false, leasedTo: null }
  }

  /** Waits until no lease has the lock, nor waits for it before this transaction. The turn has come, or there is no need. */
  async #behindLeases(call: Call, wait: Wait, bound: AnswerBound, leasedTo: string): Promise<Turn | undefined> {
    for (
      let holder: string | null = leasedTo;
      holder !== null;
      { leasedTo: holder } = await bound.within(this.#look(wait.name))
    ) {
      const turn = this.#context.transactionWaiters.join(wait.name, wait.leftMs)
      let mine = false
      try {
        mine = (await wait.race(call, turn.served, holder)) !== undefined
      } finally {
        if (!mine) turn.end(false)
      }
      if (mine) return turn
    }
    return undefined
  }

  #attempt(name: string, ttlMs: number | null): ExclusiveAttempt {
    return { ...EXCLUSIVE, name, owner: newOwner(), ttlMs, holder: this.#context.holder, session: null }
  }
}

/**
 * Rejects when the instance is closed, though the message is still on its way: only that can end the call of who cannot abort.
 * What it is granted then ends with the transaction.
 */
async function endingWith(call: Call, answer: Promise<AttemptInResult>): Promise<AttemptInResult> {
  return (await call.race(answer, Number.POSITIVE_INFINITY)) as AttemptInResult
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
