import { EXCLUSIVE } from '../protocol/store.ts'
import type { HandedOver, Waiter, Waiters } from './waiters.ts'

/** A hold that is handed to a transaction is its own a statement later; if the transaction rolls back, the hold ends after that time. */
const HANDED_TTL_MS = 1000
/** A ticket is kept for this much longer than its first transaction waits, since others may come to share it. */
const SHARED_MS = 60_000

/** One transaction's turn to try again. */
export interface Turn {
  /** The hold that was handed over, to the first of the transactions; the others resolve with undefined after it has its lock. */
  readonly served: Promise<HandedOver | undefined>
  /** Who holds the lock, for people. */
  readonly holder: string | null
  /** Ends the turn, also one that has not come yet. What was handed over but not `taken` goes to the next waiter. */
  end(taken: boolean): void
}

/**
 * Transactions of this process that wait for one lock behind leases. In the lock's queue they have one ticket together, since
 * among each other they wait in the database: the first one takes what is handed over, and the others line up behind it there.
 */
export class TransactionWaiters {
  readonly #waiters: Waiters
  readonly #groups = new Map<string, Group>()

  constructor(waiters: Waiters) {
    this.#waiters = waiters
  }

  join(name: string, waitMs: number): Turn {
    let group = this.#groups.get(name)
    if (group === undefined) {
      const terms = { ...EXCLUSIVE, ttlMs: HANDED_TTL_MS, session: null, transaction: true }
      group = new Group(this.#waiters, this.#waiters.join(name, terms, waitMs + SHARED_MS, false), () =>
        this.#groups.delete(name),
      )
      this.#groups.set(name, group)
    }
    return group.add()
  }
}

class Group {
  readonly #waiters: Waiters
  readonly #waiter: Waiter
  readonly #onEnd: () => void
  readonly #partners: Partner[] = []
  #ended = false

  constructor(waiters: Waiters, waiter: Waiter, onEnd: () => void) {
    this.#waiters = waiters
    this.#waiter = waiter
    this.#onEnd = onEnd
    waiter.served.then(
      (handed) => this.#serve(handed),
      (error: unknown) => {
        this.#end()
        for (const partner of this.#partners.splice(0)) partner.fail(error)
      },
    )
  }

  add(): Turn {
    const partner = new Partner(this.#waiter, (taken) => this.#leave(partner, taken))
    this.#partners.push(partner)
    return partner
  }

  #serve(handed: HandedOver | undefined): void {
    this.#end()
    const [first] = this.#partners
    if (handed === undefined) this.#serveAll()
    else if (first === undefined) this.#waiters.leave(this.#waiter)
    else first.serve(handed)
  }

  #leave(partner: Partner, taken: boolean): void {
    const index = this.#partners.indexOf(partner)
    if (index === -1) return
    this.#partners.splice(index, 1)
    if (!this.#ended) {
      if (this.#partners.length > 0) return
      this.#end()
      this.#waiters.leave(this.#waiter)
    } else if (partner.handed !== undefined) {
      if (!taken) this.#waiters.leave(this.#waiter)
      this.#serveAll()
    }
  }

  #serveAll(): void {
    for (const partner of this.#partners.splice(0)) partner.serve(undefined)
  }

  #end(): void {
    this.#ended = true
    this.#onEnd()
  }
}

class Partner implements Turn {
  readonly served: Promise<HandedOver | undefined>
  handed: HandedOver | undefined
  readonly #waiter: Waiter
  readonly #leave: (taken: boolean) => void
  #resolve!: (handed: HandedOver | undefined) => void
  #reject!: (error: unknown) => void

  constructor(waiter: Waiter, leave: (taken: boolean) => void) {
    this.#waiter = waiter
    this.#leave = leave
    this.served = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    // The transaction may have stopped waiting.
    this.served.catch(() => undefined)
  }

  get holder(): string | null {
    return this.#waiter.holder
  }

  serve(handed: HandedOver | undefined): void {
    this.handed = handed
    this.#resolve(handed)
  }

  fail(error: unknown): void {
    this.#reject(error)
  }

  end(taken: boolean): void {
    this.#leave(taken)
  }
}
