import { DatabaseError } from '../../base/errors.ts'

/** Taken now, since fake timers of tests may replace it later, and hold back what is no matter of time. */
const { nextTick } = process

interface Waiting<Item, Answer> {
  readonly item: Item
  resolve(answer: Answer): void
  reject(error: unknown): void
}

/** Names in one statement. More would make messages and lock lists long without saving time. */
const LONGEST_BATCH = 1000
/** Statements under way at once: while this process deals with the answers to one, the database works on the other. */
const AT_ONCE = 2
/** So many callers are worth a second statement: its fixed cost is that of some fifty names. */
const WORTH = 50
/** A statement that takes longer than this (a lost connection, a stalled server) does not keep the next ones waiting. */
const SLOW_STATEMENT_MS = 20

/** How many requests wait or are under way, in all batches that share it. */
export class Load {
  size = 0
}

interface BatchOptions<Item> {
  /** Whether a batch that is refused may be sent again in parts; in a transaction that is then over, it may not. */
  readonly split?: boolean
  /** How many statements may be under way. */
  readonly atOnce?: number
  readonly load?: Load
  readonly isShared?: (item: Item) => boolean
}

/**
 * Many callers' statements in one: what is asked for while a statement is under way goes into the next one together, so
 * batches grow with the load, and a lone caller never waits. Many callers, who go on to the next thing together, go in two
 * halves: more parts cost more statements, and of unequal parts the small ones cost as many. A name is in a batch once, but
 * that what `isShared` may be there together; of one name all go in the order in which they came.
 */
export class Batches<Item extends { readonly name: string }, Answer> {
  readonly #send: (items: readonly Item[]) => Promise<readonly Answer[]>
  readonly #split: boolean
  readonly #atOnce: number
  readonly #load: Load
  readonly #isShared: (item: Item) => boolean
  #waiting: Waiting<Item, Answer>[] = []
  #underWay = 0
  #planned = false
  #slow: NodeJS.Timeout | undefined

  constructor(
    send: (items: readonly Item[]) => Promise<readonly Answer[]>,
    { split = true, atOnce = AT_ONCE, load = new Load(), isShared = () => false }: BatchOptions<Item> = {},
  ) {
    this.#isShared = isShared
    this.#send = send
    this.#split = split
    this.#atOnce = atOnce
    this.#load = load
  }

  add(item: Item): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject })
      this.#load.size++
      if (this.#mayGo) this.#soon()
      else this.#atLast()
    })
  }

  get #mayGo(): boolean {
    return this.#underWay === 0 || (this.#underWay < this.#atOnce && this.#waiting.length >= this.#share)
  }

  /** So many requests go in one statement. */
  get #share(): number {
    return Math.max(WORTH, Math.ceil(this.#load.size / this.#atOnce))
  }

  /** When all that runs now has asked: before any input or output, so that a lone caller loses nothing. */
  #soon(): void {
    if (this.#planned) return
    this.#planned = true
    nextTick(() => {
      this.#planned = false
      if (this.#mayGo) this.#go()
      else this.#atLast()
    })
  }

  #atLast(): void {
    if (this.#waiting.length > 0) this.#slow ??= setTimeout(() => this.#go(), SLOW_STATEMENT_MS).unref()
  }

  #go(): void {
    clearTimeout(this.#slow)
    this.#slow = undefined
    do {
      const share = this.#share
      const { length } = this.#waiting
      void this.#run(this.#takeBatch(Math.min(LONGEST_BATCH, length < 2 * share ? length : share)))
    } while (this.#waiting.length > 0 && this.#mayGo)
    this.#atLast()
  }

  async #run(batch: readonly Waiting<Item, Answer>[]): Promise<void> {
    this.#underWay++
    await this.#answer(batch)
    this.#underWay--
    this.#load.size -= batch.length
    if (this.#waiting.length > 0 && this.#mayGo) this.#go()
  }

  async #answer(batch: readonly Waiting<Item, Answer>[]): Promise<void> {
    try {
      const answers = await this.#send(batch.map(({ item }) => item))
      for (const [index, { resolve }] of batch.entries()) resolve(answers[index]!)
    } catch (error) {
      if (batch.length === 1 || !this.#split || !(error instanceof DatabaseError) || error.failure !== 'other') {
        for (const { reject } of batch) reject(error)
        return
      }
      // What the database refuses because of one of them must not fail the others.
      const half = batch.length >> 1
      await Promise.all([this.#answer(batch.slice(0, half)), this.#answer(batch.slice(half))])
    }
  }

  #takeBatch(longest: number): Waiting<Item, Answer>[] {
    if (this.#waiting.length === 1) return this.#waiting.splice(0)
    const batch: Waiting<Item, Answer>[] = []
    const later: Waiting<Item, Answer>[] = []
    /** Of each name, whether others may join those that are in the batch. */
    const names = new Map<string, boolean>()
    for (const waiting of this.#waiting) {
      const { name } = waiting.item
      const isShared = this.#isShared(waiting.item)
      const joins = isShared && (names.get(name) ?? true)
      if (batch.length === longest || (names.has(name) && !joins)) {
        names.set(name, false)
        later.push(waiting)
      } else {
        names.set(name, isShared)
        batch.push(waiting)
      }
    }
    this.#waiting = later
    return batch
  }
}
