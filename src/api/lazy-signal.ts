import type { LockLostError } from '../base/errors.ts'
import { outsideRuns } from './reentry.ts'

/** An AbortSignal that is made when it is first asked for: most holds end without that. */
export class LazySignal {
  #controller: AbortController | undefined
  #reason: LockLostError | undefined

  /** Why it has aborted, or would have if anybody had asked for it. */
  get reason(): LockLostError | undefined {
    return this.#reason
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#reason !== undefined) this.#controller.abort(this.#reason)
    }
    return this.#controller.signal
  }

  /** The first reason stands. Those who listen are no part of the run in which it happens. */
  abort(reason: LockLostError): void {
    this.#reason ??= reason
    const controller = this.#controller
    if (controller !== undefined) outsideRuns((reason) => controller.abort(reason), this.#reason)
  }
}
