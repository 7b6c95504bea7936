import { LockError } from '../errors.ts'
import type { Waiter, WakeUps } from './wake.ts'

/**
 * How long between two looks at the database. Shorter finds a freed lock sooner and asks more often; one look serves all
 * waiters of the process.
 */
const POLL_MS = 50
/** Each pause is drawn from (1 - JITTER) to (1 + JITTER) of that, so that processes do not march in step. */
const JITTER = 0.5

class Place implements Waiter {
  readonly #leave: (place: Place) => void
  #wake: ((failure: Error | undefined) => void) | undefined
  #woken = false

  constructor(leave: (place: Place) => void) {
    this.#leave = leave
  }

  next(timeoutMs: number, signal: AbortSignal): Promise<Error | undefined> {
    return new Promise((resolve, reject) => {
      const finish = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', abort)
        this.#wake = undefined
        this.#woken = false
      }
      const abort = () => {
        finish()
        reject(signal.reason)
      }
      const wake = (failure: Error | undefined) => {
        finish()
        resolve(failure)
      }
      // No unref: somebody is awaiting this, so the process has work.
      const timer = timeoutMs === Number.POSITIVE_INFINITY ? undefined : setTimeout(() => wake(undefined), timeoutMs)
      signal.addEventListener('abort', abort, { once: true })
      this.#wake = wake
      if (signal.aborted) abort()
      else if (this.#woken) wake(undefined)
    })
  }

  /** A place whose owner is busy trying remembers the wake-up for when it comes back. */
  wake(failure?: Error): void {
    if (this.#wake !== undefined) this.#wake(failure)
    else this.#woken = failure === undefined
  }

  stop(): void {
    this.#leave(this)
  }
}

/**
 * Polls: one statement per tick asks for all names at once. Of several waiters for one free name the longest waiting is
 * woken; the others' turn comes when it has succeeded, given up or left.
 */
export class Polling implements WakeUps {
  readonly #free: (names: readonly string[]) => Promise<Set<string>>
  readonly #places = new Map<string, Set<Place>>()
  #timer: NodeJS.Timeout | undefined
  #asking = false

  constructor(free: (names: readonly string[]) => Promise<Set<string>>) {
    this.#free = free
  }

  wait(name: string): Waiter {
    const places = this.#places.get(name) ?? new Set()
    const place = new Place(() => {
      places.delete(place)
      if (places.size === 0 && this.#places.get(name) === places) this.#places.delete(name)
      if (this.#places.size === 0) this.close()
    })
    places.add(place)
    this.#places.set(name, places)
    this.#schedule()
    return place
  }

  hint(name: string): void {
    const [first] = this.#places.get(name) ?? []
    first?.wake()
  }

  waiting(name: string): number {
    return this.#places.get(name)?.size ?? 0
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#places.clear()
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#asking || this.#places.size === 0) return
    this.#timer = setTimeout(() => void this.#tick(), POLL_MS * (1 - JITTER + 2 * JITTER * Math.random()))
  }

  async #tick(): Promise<void> {
    this.#timer = undefined
    this.#asking = true
    try {
      for (const name of await this.#free([...this.#places.keys()])) this.hint(name)
    } catch (error) {
      // The waiters decide whether that ends their wait.
      const failure = error instanceof Error ? error : new LockError('DATABASE', 'the poll failed', { cause: error })
      for (const places of this.#places.values()) for (const place of places) place.wake(failure)
    } finally {
      this.#asking = false
      this.#schedule()
    }
  }
}
