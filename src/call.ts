import { MAX_TIMER_MS } from './duration.ts'

export const TIME_OUT = Symbol('time is up')

/** The calls of one instance that are under way. It can end them all. */
export class Calls {
  readonly #underWay = new Set<Call>()

  /** Runs `body`; its waits reject with the reason of `signal`, or with that of `cancelAll`. */
  async run<T>(signal: AbortSignal | undefined, body: (call: Call) => Promise<T>): Promise<T> {
    const call = new Call()
    const abort = () => call.cancel(signal!.reason)
    if (signal?.aborted) abort()
    else signal?.addEventListener('abort', abort, { once: true })
    this.#underWay.add(call)
    try {
      return await body(call)
    } finally {
      this.#underWay.delete(call)
      signal?.removeEventListener('abort', abort)
      if (this.#underWay.size === 0) this.#onIdle?.()
    }
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
  #cancelled: { readonly reason: unknown } | undefined
  #reject: ((reason: unknown) => void) | undefined

  cancel(reason: unknown): void {
    if (this.#cancelled !== undefined) return
    this.#cancelled = { reason }
    this.#reject?.(reason)
  }

  throwIfCancelled(): void {
    if (this.#cancelled !== undefined) throw this.#cancelled.reason
  }

  /** Settles as `promise` does, or with TIME_OUT after `timeoutMs`; rejects when the call is cancelled. One at a time. */
  race<T>(promise: Promise<T> | undefined, timeoutMs: number): Promise<T | typeof TIME_OUT> {
    return new Promise((resolve, reject) => {
      if (this.#cancelled !== undefined) return reject(this.#cancelled.reason)
      // No unref: somebody is awaiting this, so the process has work.
      const timer =
        timeoutMs > MAX_TIMER_MS ? undefined : setTimeout(() => end(() => resolve(TIME_OUT)), Math.max(0, timeoutMs))
      let ended = false
      const end = (settle: () => void) => {
        if (ended) return
        ended = true
        clearTimeout(timer)
        this.#reject = undefined
        settle()
      }
      this.#reject = (reason) => end(() => reject(reason))
      promise?.then(
        (value) => end(() => resolve(value)),
        (error: unknown) => end(() => reject(error)),
      )
    })
  }
}
