import type { TransactionView } from '../protocol/store.ts'

/** Polls follow each other as quickly as the database answers while transactions come and go, and this far apart at most. */
const SHORTEST_PAUSE_MS = 1
const LONGEST_PAUSE_MS = 25
/** So much of the time in which nothing has moved. */
const WAITED_PART = 1 / 20
/**
 * The transaction that has the lock waits for another lock itself, for so long by now: those who wait for it may be what it
 * waits for, so they go on to wait in the database, where the engine sees that. As long as PostgreSQL's deadlock_timeout.
 */
const BLOCKED_MS = 1000

/** A transaction that may enter the database now. */
export interface Entrance {
  readonly open: Promise<void>
  /** It has had its answer, or does not wait any more. */
  leave(): void
}

/**
 * Transactions that see nothing but a snapshot wait here for other transactions, before they have one. A snapshot that is
 * older than the end of the transaction that had the lock before could only be given up. Of this process, one enters at a
 * time, when no transaction can be seen to have the lock.
 */
export class BeforeSnapshot {
  readonly #poll: (names: readonly string[]) => Promise<readonly TransactionView[]>
  readonly #waiting = new Map<string, Waiting[]>()
  readonly #entering = new Map<string, Waiting>()
  readonly #blockedSince = new Map<string, number>()
  #movedAt = 0
  #polling = false

  constructor(poll: (names: readonly string[]) => Promise<readonly TransactionView[]>) {
    this.#poll = poll
  }

  /** `seen`: how the lock was a moment ago. */
  enter(name: string, seen?: TransactionView): Entrance {
    const waiting = new Waiting()
    const isFirst = !this.#waiting.has(name) && !this.#entering.has(name)
    if (isFirst && seen?.taken === false) this.#letIn(name, waiting)
    else this.#lineUp(name, waiting)
    return { open: waiting.open, leave: () => this.#leave(name, waiting) }
  }

  #lineUp(name: string, waiting: Waiting): void {
    const waiters = this.#waiting.get(name)
    if (waiters === undefined) this.#waiting.set(name, [waiting])
    else waiters.push(waiting)
    if (!this.#polling) void this.#pollOn()
  }

  #letIn(name: string, waiting: Waiting): void {
    this.#entering.set(name, waiting)
    waiting.enter()
  }

  #leave(name: string, waiting: Waiting): void {
    this.#movedAt = performance.now()
    if (this.#entering.get(name) === waiting) this.#entering.delete(name)
    const waiters = this.#waiting.get(name)?.filter((other) => other !== waiting)
    if (waiters === undefined || waiters.length === 0) this.#waiting.delete(name)
    else this.#waiting.set(name, waiters)
  }

  async #pollOn(): Promise<void> {
    this.#polling = true
    this.#movedAt = performance.now()
    while (this.#waiting.size > 0) {
      const names = [...this.#waiting.keys()].filter((name) => !this.#entering.has(name))
      try {
        if (names.length > 0) for (const view of await this.#poll(names)) this.#see(view)
      } catch {
        // What is wrong with the database they will see themselves; and where it cannot be asked, they wait in it.
        for (const name of names) this.#openFor(name, this.#waiting.get(name)?.length ?? 0)
      }
      await new Promise((resolve) => setTimeout(resolve, this.#pauseMs()))
    }
    this.#polling = false
  }

  #see({ name, taken, blocked }: TransactionView): void {
    if (!taken) this.#openFor(name, 1)
    if (!taken || !blocked) {
      this.#blockedSince.delete(name)
      return
    }
    const since = this.#blockedSince.get(name) ?? performance.now()
    this.#blockedSince.set(name, since)
    if (performance.now() - since >= BLOCKED_MS) this.#openFor(name, this.#waiting.get(name)?.length ?? 0)
  }

  /** For the first ones. */
  #openFor(name: string, count: number): void {
    for (const waiting of this.#waiting.get(name)?.splice(0, count) ?? []) this.#letIn(name, waiting)
    if (this.#waiting.get(name)?.length === 0) this.#waiting.delete(name)
    this.#movedAt = performance.now()
  }

  #pauseMs(): number {
    const stillMs = performance.now() - this.#movedAt
    return Math.min(LONGEST_PAUSE_MS, Math.max(SHORTEST_PAUSE_MS, stillMs * WAITED_PART))
  }
}

class Waiting {
  readonly open: Promise<void>
  enter!: () => void

  constructor() {
    this.open = new Promise((resolve) => {
      this.enter = resolve
    })
  }
}
