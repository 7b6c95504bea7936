import { DenseSet } from '../base/dense-set.ts'
import { MAX_TIMER_MS } from '../base/duration.ts'

export const TIME_OUT = Symbol('time is up')

/** A call that ends with a signal. */
class Listening {
  place: number | undefined
  constructor(readonly call: Call) {}
}

/**
 * Those that end with a signal. They share one listener, of all instances: from the eleventh on Node would warn of a leak, and
 * adding and removing each would take longer the more there are. It goes with the last of them, for the signal may outlive us.
 */
class SharedSignal {
  static readonly #inUse = new WeakMap<AbortSignal, SharedSignal>()
  readonly #signal: AbortSignal
  readonly #listening = new DenseSet<Listening>()

  static of(signal: AbortSignal): SharedSignal {
    let shared = SharedSignal.#inUse.get(signal)
    if (shared === undefined) {
      shared = new SharedSignal(signal)
      SharedSignal.#inUse.set(signal, shared)
      signal.addEventListener('abort', shared.#abort, { once: true })
    }
    return shared
  }

  private constructor(signal: AbortSignal) {
    this.#signal = signal
  }

  add(listening: Listening): void {
    this.#listening.add(listening)
  }

  delete(listening: Listening): void {
    if (!this.#listening.delete(listening) || this.#listening.size > 0) return
    this.#signal.removeEventListener('abort', this.#abort)
    SharedSignal.#inUse.delete(this.#signal)
  }

  readonly #abort = () => {
    for (const { call } of this.#listening) call.cancel(this.#signal.reason)
  }
}

/** The calls of one instance that are under way. It can end them all. */
export class Calls {
  readonly #underWay = new DenseSet<Call>()

  /** Runs `body`; its waits reject with the reason of `signal`, or with that of `cancelAll`. */
  async run<T>(signal: AbortSignal | undefined, body: (call: Call) => Promise<T>): Promise<T> {
    const call = this.begin(signal)
    try {
      return await body(call)
    } finally {
      this.end(call)
    }
  }

  /** The same for who sees to it that `end` follows. */
  begin(signal: AbortSignal | undefined): Call {
    const call = new Call(signal)
    this.#underWay.add(call)
    return call
  }

  end(call: Call): void {
    call.end()
    this.#underWay.delete(call)
    if (this.#underWay.size === 0) this.#onIdle?.()
  }

  /** Resolves when they have ended. */
  async cancelAll(reason: unknown): Promise<void> {
    for (const call of this.#underWay) call.cancel(reason)
    if (this.#underWay.size > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve
      })
    }
  }

  #onIdle: (() => void) | undefined
}

/** One call of the user's, that may be cancelled while it waits. */
export class Call {
  /** @internal */
  place: number | undefined
  readonly #stopListening: (() => void) | undefined
  #cancelled: { readonly reason: unknown } | undefined
  #reject: ((reason: unknown) => void) | undefined

  constructor(signal: AbortSignal | undefined) {
    if (signal === undefined) return
    if (signal.aborted) {
      this.cancel(signal.reason)
      return
    }
    const shared = SharedSignal.of(signal)
    const listening = new Listening(this)
    shared.add(listening)
    this.#stopListening = () => shared.delete(listening)
  }

  end(): void {
    this.#stopListening?.()
  }

  cancel(reason: unknown): void {
    if (this.#cancelled !== undefined) return
    this.#cancelled = { reason }
    this.#reject?.(reason)
  }

  get cancelled(): boolean {
    return this.#cancelled !== undefined
  }

  throwIfCancelled(): void {
    if (this.#cancelled !== undefined) throw this.#cancelled.reason
  }

  /** Settles as `promise` does, or with TIME_OUT after `timeoutMs`; rejects when the call is cancelled. One at a time. */
  race<T>(promise: Promise<T> | undefined, timeoutMs: number): Promise<T | typeof TIME_OUT> {
    return new Promise((resolve, reject) => {
      if (this.#cancelled !== undefined) {
        // Nobody waits for it any more, so its failure is nobody's either.
        promise?.catch(() => undefined)
        return reject(this.#cancelled.reason)
      }
      // The first to come ends it; the others find that it is over.
      const end = () => {
        if (this.#reject !== fail) return false
        clearTimeout(timer)
        this.#reject = undefined
        return true
      }
      const fail = (reason: unknown) => {
        if (end()) reject(reason)
      }
      const answer = (value: T | typeof TIME_OUT) => {
        if (end()) resolve(value)
      }
      // No unref: somebody is awaiting this, so the process has work.
      const timer = timeoutMs > MAX_TIMER_MS ? undefined : setTimeout(answer, Math.max(0, timeoutMs), TIME_OUT)
      this.#reject = fail
      promise?.then(answer, fail)
    })
  }
}
