import { LockError, LockTimeoutError } from '../base/errors.ts'
import type { Claim } from '../protocol/circles.ts'
import { newOwner } from '../protocol/ids.ts'
import { CONFIRM_MS, EXCLUSIVE, type Hold, SHARED, type Store, toHold } from '../protocol/store.ts'
import { AnswerBound } from './answer-bound.ts'
import { type AcquireContext, acquire, type Granted } from './attempts.ts'
import type { Call } from './calls.ts'
import { claimsIn, mayHave } from './transaction-holds.ts'

export interface SharedAttemptsContext<Tx> {
  readonly store: Store<Tx>
  /** Its attempts are sent beside the transaction. */
  readonly acquire: AcquireContext
  /** Rejects if the server is known not to keep the promises. */
  assessed(): Promise<void>
}

/** A shared hold that a transaction wants to have until it ends. */
export interface SharedIn {
  readonly name: string
  /** Null: a try, which waits for nobody. */
  readonly waitMs: number | null
  /** What the caller holds besides. */
  readonly claims?: (() => readonly Claim[]) | undefined
}

/** A try whose hold had run out before the transaction could adopt it is repeated that often: this process stood still. */
const TRIES = 3

/**
 * How transactions of this process share locks: each hold is granted beside the transaction, as any other is, but for a moment
 * only; and in that moment the transaction adopts it, with which it lasts until the transaction ends. Until then nothing is
 * sent in the transaction, so that it has no snapshot yet.
 */
export class SharedAttempts<Tx> {
  readonly #context: SharedAttemptsContext<Tx>

  constructor(context: SharedAttemptsContext<Tx>) {
    this.#context = context
  }

  /** Null if it is a try and somebody else has the lock. */
  async acquire(call: Call, tx: Tx, { name, waitMs, claims }: SharedIn): Promise<Hold | null> {
    const { store, acquire: context, assessed } = this.#context
    if (store.single) throw cannotShare()
    await assessed()
    const own = await this.#exclusive(tx, name)
    if (own !== undefined) return own
    const started = performance.now()
    for (let tries = 1; ; tries++) {
      const leftMs = waitMs === null ? null : Math.max(0, started + waitMs - performance.now())
      const bound = new AnswerBound(leftMs, context.statementTimeoutMs)
      const wanted = {
        name,
        waitMs: leftMs,
        weight: SHARED,
        permits: null,
        ttlMs: CONFIRM_MS,
        maxHoldMs: Number.POSITIVE_INFINITY,
        session: null,
        claims: () => [...claimsIn(tx, name), ...(claims?.() ?? [])],
      }
      const granted = await acquire(context, call, wanted, bound)
      if (granted === null) return null
      if (await this.#adopt(call, tx, granted)) return toHold(granted)
      const isOver = leftMs === null ? tries >= TRIES : performance.now() >= started + waitMs!
      if (!isOver) continue
      if (waitMs === null) return null
      throw new LockTimeoutError(name, performance.now() - started)
    }
  }

  /** Whether the transaction has it now; else others have it. */
  async #adopt(call: Call, tx: Tx, granted: Granted): Promise<boolean> {
    const { store, acquire: context } = this.#context
    const hold = toHold(granted)
    let adopted = false
    try {
      call.throwIfCancelled()
      const result = await store.adoptIn(tx, hold)
      // An old snapshot shows a slot as it was; but what has not run out by this process's clock was there to be locked.
      const lasts = performance.now() < granted.sentAt + granted.remainingMs
      adopted = result === 'stands' || (result === 'expired' && lasts)
      return adopted
    } finally {
      if (granted.unconfirmed) context.waiters.ended(hold.owner)
      if (!adopted) context.handOffs.passOn(hold)
    }
  }

  /** What it has already; unless a savepoint was rolled back since. */
  async #exclusive(tx: Tx, name: string): Promise<Hold | undefined> {
    const { store, acquire: context } = this.#context
    if (!mayHave(tx, name)) return undefined
    const attempt = { ...EXCLUSIVE, name, owner: newOwner(), ttlMs: null, holder: context.holder, session: null }
    const result = await store.acquireIn(tx, attempt, 0)
    return result.granted ? { name, owner: result.owner, token: result.token } : undefined
  }
}

function cannotShare(): LockError {
  return new LockError(
    'UNSUPPORTED',
    'a transaction on a database with one connection cannot share a lock: take it exclusively, or take a shared lease before the transaction begins and guard it',
  )
}
