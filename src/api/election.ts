import { MAX_TIMER_MS } from '../base/duration.ts'
import { LockError, LockLostError, ResignedError } from '../base/errors.ts'
import { backoff, sleep } from '../base/timing.ts'
import type { Resignations } from '../process/resignations.ts'
import type { Watches } from '../process/watches.ts'
import type { LockView, Store } from '../protocol/store.ts'
import { toAcquiredAt } from './info.ts'
import type { Lease, LeaseHandle } from './lease.ts'
import { checkOptions, type LockOptions, refuseMode } from './options.ts'

/** How a leader holds its place. */
export type ElectionOptions = Pick<LockOptions, 'ttl' | 'takeover' | 'maxHold' | 'metadata'>

/** One time as a leader. */
export interface Term<Tx> {
  readonly name: string
  /** The fencing token: it rises from term to term, of whichever process. */
  readonly token: bigint
  /**
   * Aborts when the term ends, or is to end: with LockLostError if the lease is lost, with ResignedError if the leader resigns or
   * is asked to, or with the reason of the signal that was given to `lead`.
   */
  readonly signal: AbortSignal
  /** Makes the commit of `tx` depend on the term, as `lease.guard` does: no two leaders write under it. */
  guard(tx: Tx | (() => Tx)): Promise<void>
  /** What the last leader left, or another holder of the lock of that name: see `lease.payload`. */
  readonly payload: unknown
  /** Leaves `value` to the next leader: see `lease.checkpoint`. */
  checkpoint(value: unknown, tx?: Tx | (() => Tx)): Promise<void>
  /** Lets the next candidate lead at once. The body should end. */
  resign(): Promise<void>
}

/** Who leads. */
export interface Leader {
  /** Who that is, for people: host:pid, unless createLocks was told otherwise. */
  readonly holder: string
  readonly token: bigint
  /** By the database's clock. */
  readonly since: Date
}

/** The lock of one name, held by one leader of all processes, for as long as it lives. */
export interface Election<Tx> {
  readonly name: string
  /**
   * Waits to be elected, runs `body` as the leader, and then is a candidate again, behind those who wait; until `signal` aborts or
   * the instance is closed, and the body has ended. A body that resolves ends its term. One that rejects does so, too, and is an
   * `error` event; it pauses before it is a candidate again, longer each time, as does one that ends at once.
   */
  lead(
    options: { readonly signal?: AbortSignal | undefined },
    body: (term: Term<Tx>) => Promise<unknown> | unknown,
  ): Promise<void>
  /**
   * Who leads, and then each change of that, or null while nobody does, in order; the latest one for who reads slowly. Ends with
   * `signal`, and when the instance is closed. One statement for all that this process observes, a few times a second.
   */
  observe(options?: { readonly signal?: AbortSignal | undefined }): AsyncIterableIterator<Leader | null>
  /** Asks the present leader to resign, who hears of it within a second or so. False if there is none. */
  requestResign(): Promise<boolean>
}

export interface ElectionContext<Tx> {
  readonly store: Store<Tx>
  readonly watches: Watches
  readonly resignations: Resignations
  /** Aborts when the instance is closed. */
  readonly closing: AbortSignal
  acquire(name: string, options: LockOptions): Promise<LeaseHandle<Tx>>
  run<T>(lease: LeaseHandle<Tx>, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T>
  ready(): Promise<void>
  assertOpen(): void
  /** INVALID_ARGUMENT if a lease could not be had so. */
  check(name: string, options: LockOptions): void
  failed(during: string, cause: unknown): void
}

/** A body that ends sooner may do so again and again. */
const SHORT_TERM_MS = 1000
const LONGEST_PAUSE_MS = 10_000

export class LockElection<Tx> implements Election<Tx> {
  readonly name: string
  readonly #context: ElectionContext<Tx>
  readonly #options: ElectionOptions

  constructor(context: ElectionContext<Tx>, name: string, options: ElectionOptions) {
    checkOptions(options)
    refuseMode(options, 'an election', 'there is one leader')
    context.assertOpen()
    context.check(name, options)
    this.name = name
    this.#context = context
    this.#options = options
  }

  async lead(
    options: { readonly signal?: AbortSignal | undefined },
    body: (term: Term<Tx>) => Promise<unknown> | unknown,
  ): Promise<void> {
    if (typeof body !== 'function') {
      throw new LockError(
        'INVALID_ARGUMENT',
        'lead takes options and a function: lead({ signal }, async (term) => ...)',
      )
    }
    const ended = this.#endedBy(options)
    this.#context.assertOpen()
    let failures = 0
    // Whoever leads has work to do, though it may be waiting for nothing but the end of its term.
    const alive = setInterval(() => undefined, MAX_TIMER_MS)
    try {
      while (!ended.aborted) {
        const isSteady = await this.#leadOnce(ended, body)
        failures = isSteady ? 0 : failures + 1
        if (failures > 0) await sleep(backoff(failures, LONGEST_PAUSE_MS), ended).catch(() => undefined)
      }
    } finally {
      clearInterval(alive)
    }
  }

  /** Once elected and deposed. Whether nothing went wrong. */
  async #leadOnce(ended: AbortSignal, body: (term: Term<Tx>) => Promise<unknown> | unknown): Promise<boolean> {
    const { acquire, failed } = this.#context
    let lease: LeaseHandle<Tx>
    try {
      lease = await acquire(this.name, { ...this.#options, wait: Number.POSITIVE_INFINITY, signal: ended })
    } catch (error) {
      if (ended.aborted) return true
      // What passes with time.
      if (!(error instanceof LockError) || !['DATABASE', 'QUEUE_FULL'].includes(error.code)) throw error
      failed(`the election ${JSON.stringify(this.name)}`, error)
      return false
    }
    const electedAt = performance.now()
    const succeeded = await this.#serve(lease, ended, body)
    return succeeded && performance.now() - electedAt >= SHORT_TERM_MS
  }

  /** One term. Whether its body did not fail. */
  async #serve(
    lease: LeaseHandle<Tx>,
    ended: AbortSignal,
    body: (term: Term<Tx>) => Promise<unknown> | unknown,
  ): Promise<boolean> {
    const { name } = this
    const { run, failed, resignations } = this.#context
    const over = new AbortController()
    const stopHeeding = resignations.heed(name, lease.token, () => over.abort(new ResignedError(name, true)))
    const signal = AbortSignal.any([ended, lease.signal, over.signal])
    const term: Term<Tx> = {
      name,
      token: lease.token,
      signal,
      payload: lease.payload,
      guard: (tx) => lease.guard(tx),
      checkpoint: (value, tx) => lease.checkpoint(value, tx),
      resign: async () => {
        over.abort(new ResignedError(name, false))
        await lease.release()
      },
    }
    try {
      await run(lease, () => body(term))
      return true
    } catch (error) {
      if (isOfTheEnd(error, signal) || (error instanceof LockLostError && error.lock === name)) return true
      failed(`a leader of ${JSON.stringify(name)}`, error)
      return false
    } finally {
      stopHeeding()
    }
  }

  observe(
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): AsyncIterableIterator<Leader | null, undefined, undefined> {
    const returned = new AbortController()
    const changes = this.#changes(AbortSignal.any([this.#endedBy(options), returned.signal]))
    return {
      next: () => changes.next(),
      // A generator would wait for the next change first.
      return: () => {
        returned.abort()
        return changes.return(undefined)
      },
      [Symbol.asyncIterator]() {
        return this
      },
    }
  }

  async *#changes(ended: AbortSignal): AsyncGenerator<Leader | null, undefined, undefined> {
    const { watches, ready } = this.#context
    await ready()
    // What is wrong with the database is told at once.
    await this.#context.store.poll([this.name])
    const changes = new Changes()
    const stop = watches.watch(this.name, (view) => changes.see(view))
    const wake = () => changes.wake()
    ended.addEventListener('abort', wake)
    try {
      while (!ended.aborted) {
        const change = changes.take()
        if (change === undefined) await changes.next()
        else yield change.leader
      }
      return undefined
    } finally {
      ended.removeEventListener('abort', wake)
      stop()
    }
  }

  /** By the caller's signal, or when the instance is closed. */
  #endedBy(options: { readonly signal?: AbortSignal | undefined }): AbortSignal {
    checkOptions(options)
    const { signal } = options
    const { closing, check } = this.#context
    check(this.name, { ...this.#options, signal })
    return AbortSignal.any(signal === undefined ? [closing] : [signal, closing])
  }

  async requestResign(): Promise<boolean> {
    const { store, resignations, ready } = this.#context
    await ready()
    const state = await store.inspect(this.name)
    if (state === null) return false
    await resignations.ask(this.name, state.token)
    return true
  }
}

/** What has been seen last, for a reader who may be slow. */
class Changes {
  #unread: { readonly leader: Leader | null } | undefined
  #lastToken: bigint | null | undefined
  #newest = 0n
  #wake: (() => void) | undefined

  see(view: LockView | undefined): void {
    const [holder] = view?.holders ?? []
    // Without a row, which was purged, nobody leads.
    const token = holder?.token ?? view?.token ?? this.#newest
    // An answer that was overtaken by a later one.
    if (token < this.#newest) return
    this.#newest = token
    const seen = holder?.token ?? null
    if (seen === this.#lastToken) return
    this.#lastToken = seen
    const leader =
      holder === undefined ? null : { holder: holder.label, token: holder.token, since: toAcquiredAt(holder.token) }
    this.#unread = { leader }
    this.wake()
  }

  take(): { readonly leader: Leader | null } | undefined {
    const unread = this.#unread
    this.#unread = undefined
    return unread
  }

  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }

  wake(): void {
    this.#wake?.()
    this.#wake = undefined
  }
}

/** What a body rejects with since it was told to end is no failure of its own: the reason itself, or what has it for its cause. */
function isOfTheEnd(error: unknown, { aborted, reason }: AbortSignal): boolean {
  return aborted && (error === reason || (error instanceof Error && error.cause === reason))
}
