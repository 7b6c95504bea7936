import type { Handed, Place, Queue } from './queue.ts'

/** A hold that is handed to a transaction is its own a statement later; if the transaction rolls back, the hold ends after that time. */
const HANDED_TTL_MS = 1000
/** A place is kept for this much longer than its first transaction waits, since others may come to share it. */
const SHARED_MS = 60_000

/** One transaction's turn to try again. */
export interface Turn {
  /** The hold that was handed over, to the first of the transactions; the others resolve with undefined after it has its lock. */
  readonly served: Promise<Handed | undefined>
  /** Who holds the lock, for people. */
  readonly holder: string | null
  /** Ends the turn, also one that has not come yet. What was handed over but not `taken` goes to the next waiter. */
  end(taken: boolean): void
}

/**
 * Transactions of this process that wait for one lock behind leases. In the lock's queue they have one place together, since
 * among each other they wait in the database: the first one takes what is handed over, and the others line up behind it there.
 */
export class TransactionQueue {
  readonly #queue: Queue
  readonly #groups = new Map<string, Group>()

  constructor(queue: Queue) {
    this.#queue = queue
  }

  join(name: string, waitMs: number): Turn {
    let group = this.#groups.get(name)
    if (group === undefined) {
      const terms = { ttlMs: HANDED_TTL_MS, session: null, transaction: true }
      group = new Group(this.#queue, this.#queue.join(name, terms, waitMs + SHARED_MS, false), () =>
        this.#groups.delete(name),
      )
      this.#groups.set(name, group)
    }
    return group.add()
  }
}

class Group {
  readonly #queue: Queue
  readonly #place: Place
  readonly #onEnd: () => void
  readonly #members: Member[] = []
  #ended = false

  constructor(queue: Queue, place: Place, onEnd: () => void) {
    this.#queue = queue
    this.#place = place
    this.#onEnd = onEnd
    place.served.then(
      (handed) => this.#serve(handed),
      (error: unknown) => {
        this.#end()
        for (const member of this.#members.splice(0)) member.fail(error)
      },
    )
  }

  add(): Turn {
    const member = new Member(this.#place, (taken) => this.#leave(member, taken))
    this.#members.push(member)
    return member
  }

  #serve(handed: Handed | undefined): void {
    this.#end()
    const [first] = this.#members
    if (handed === undefined) this.#serveAll()
    else if (first === undefined) this.#queue.leave(this.#place)
    else first.serve(handed)
  }

  #leave(member: Member, taken: boolean): void {
    const index = this.#members.indexOf(member)
    if (index === -1) return
    this.#members.splice(index, 1)
    if (!this.#ended) {
      if (this.#members.length > 0) return
      this.#end()
      this.#queue.leave(this.#place)
    } else if (member.handed !== undefined) {
      if (!taken) this.#queue.leave(this.#place)
      this.#serveAll()
    }
  }

  #serveAll(): void {
    for (const member of this.#members.splice(0)) member.serve(undefined)
  }

  #end(): void {
    this.#ended = true
    this.#onEnd()
  }
}

class Member implements Turn {
  readonly served: Promise<Handed | undefined>
  handed: Handed | undefined
  readonly #place: Place
  readonly #leave: (taken: boolean) => void
  #resolve!: (handed: Handed | undefined) => void
  #reject!: (error: unknown) => void

  constructor(place: Place, leave: (taken: boolean) => void) {
    this.#place = place
    this.#leave = leave
    this.served = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    // The transaction may have stopped waiting.
    this.served.catch(() => undefined)
  }

  get holder(): string | null {
    return this.#place.holder
  }

  serve(handed: Handed | undefined): void {
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
