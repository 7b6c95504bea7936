import type { Mode } from './options.ts'
import { outsideRuns } from './reentry.ts'

interface OfLease {
  readonly name: string
  readonly token: bigint
  readonly owner: string
  readonly mode: Mode
}

/** What happened, one union, told apart by `type`. Times are milliseconds of this process's monotonic clock. */
export type LockEvent =
  | ({ readonly type: 'acquired'; readonly waitedMs: number } & OfLease)
  /** An `acquired` that took the lock from a holder that had not released it: its lease ran out or its session died. */
  | ({ readonly type: 'takeover' } & OfLease)
  | ({ readonly type: 'renewed'; readonly remainingMs: number } & OfLease)
  /** The row is ours but locked by a transaction (a guard, most likely), so the expiry could not be moved; tried again soon. */
  | ({ readonly type: 'held' } & OfLease)
  /** A renewal got no answer. The lease lives on until its deadline, and is renewed again before. */
  | ({ readonly type: 'unknown'; readonly cause: unknown } & OfLease)
  /** It is shared from now on. */
  | ({ readonly type: 'downgraded' } & OfLease)
  | ({ readonly type: 'lost'; readonly reason: string } & OfLease)
  | ({ readonly type: 'released' } & OfLease)
  | { readonly type: 'timeout'; readonly name: string; readonly waitedMs: number }
  | { readonly type: 'forced'; readonly name: string }
  /**
   * A setting of the server that a crash would turn into a danger for locks, although all seems well; or a semaphore with
   * another number of permits than it was opened with. Once per instance.
   */
  | { readonly type: 'warning'; readonly message: string }
  /** Something failed in the background, where nobody could catch it. Nothing is granted or lost because of it. */
  | { readonly type: 'error'; readonly during: string; readonly cause: unknown }

export type LockListener = (event: LockEvent) => void

export class Events {
  readonly #listeners = new Set<LockListener>()

  /** Returns the function that unsubscribes. */
  on(listener: LockListener): () => void {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  get isHeard(): boolean {
    return this.#listeners.size > 0
  }

  emit(event: LockEvent): void {
    for (const listener of this.#listeners) {
      // A listener must not be able to break a lease, nor may its error vanish.
      const warn = (error: unknown) =>
        process.emitWarning(error instanceof Error ? error : new Error(String(error)), {
          type: 'RowlockListenerWarning',
          detail: `a listener threw on the event '${event.type}'`,
        })
      try {
        const returned: unknown = outsideRuns(listener, event)
        // An async function is a listener, too.
        if (returned instanceof Promise) returned.catch(warn)
      } catch (error) {
        warn(error)
      }
    }
  }

  clear(): void {
    this.#listeners.clear()
  }
}
