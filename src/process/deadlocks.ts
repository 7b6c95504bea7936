import { DeadlockError } from '../base/errors.ts'
import { randomHex } from '../base/random.ts'
import {
  type Circle,
  type Claim,
  type ClaimingWait,
  circlesOf,
  described,
  mayBeStuck,
  type Seen,
  stuckBy,
  waitedFor,
} from '../protocol/circles.ts'
import type { PublishedWaits } from '../protocol/store.ts'

/** Most waits are shorter, and cost nothing. */
const UNPUBLISHED_MS = 300
/** A circle is seen at the third look at the latest, and has to be found within a second. */
const LOOK_AGAIN_MS = 120
/** After a look that failed. */
const FAILED_LOOK_MS = 1000

export interface DeadlocksContext {
  /** Who we are, for people. */
  readonly holder: string
  publish(waits: string | null): Promise<PublishedWaits>
  look(name: string): Promise<Seen>
  background(during: string, work: Promise<unknown>): void
}

/** A call that waits while its caller holds something. */
export interface WatchedWait {
  readonly name: string
  readonly weight: number | null
  /** What its caller holds at this moment. */
  claims(): readonly Claim[]
  /** Since when it is in the queue for certain, as a time of performance.now(). Who waits for all of a lock need not tell. */
  queuedAt?(): number | undefined
  /** Ends the wait. */
  reject(error: DeadlockError): void
}

interface Watched extends WatchedWait {
  readonly id: string
  readonly startedAt: number
}

/** When a wait was first seen, by the database's clock, with all that must not have changed since. */
interface Sighting {
  readonly at: number
  readonly signature: string
}

/** What a process says of its waits. Its `since` is the database's time. */
type Said = Omit<ClaimingWait, 'holder'>

interface SaidBy {
  readonly holder: string
  /** The latest time of the database's that the process had heard of when it said this: it may arrive much later. */
  readonly knows: number
  readonly waits: readonly Said[]
}

/**
 * Finds those who wait for each other in a circle, in all processes. Who has waited for a while, and holds something, says so in
 * the database, and again at each look at what the others say; nobody else can be in a circle.
 *
 * A circle is believed when all of it has been seen at one look, and each wait in it, with what it holds, was said again by
 * somebody who knew of a later time, and when the holds stand in the database afterwards. Then all of them waited at the moment
 * of that look, and held what they say; and who is in a circle stays there. The process of the youngest ends that wait.
 */
export class Deadlocks {
  readonly #context: DeadlocksContext
  readonly #watched = new Set<Watched>()
  /** The database's clock less performance.now(), as the first thing that is said finds out. */
  #clock = 0
  #knows = 0
  /** Of those that may be in a circle, by their ids. */
  #sightings = new Map<string, Sighting>()
  #timer: NodeJS.Timeout | undefined
  #looking = false
  #hasSaid = false
  #closed = false

  constructor(context: DeadlocksContext) {
    this.#context = context
  }

  /** Until what this answers is called. */
  watch(wait: WatchedWait): () => void {
    const watched = { ...wait, id: randomHex(8), startedAt: performance.now() }
    this.#watched.add(watched)
    if (this.#watched.size === 1) this.#lookIn(UNPUBLISHED_MS)
    return () => this.#watched.delete(watched)
  }

  /** Nothing is sent afterwards. */
  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    this.#watched.clear()
    if (this.#hasSaid) this.#context.background('leaving those who wait', this.#context.publish(null))
  }

  #lookIn(ms: number): void {
    if (this.#closed || this.#looking) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(
      () => this.#context.background('looking for deadlocks', this.#lookAround()),
      Math.max(0, ms),
    )
    this.#timer.unref()
  }

  async #lookAround(): Promise<void> {
    this.#looking = true
    let againMs = FAILED_LOOK_MS
    try {
      againMs = await this.#look()
    } finally {
      this.#looking = false
      if (this.#watched.size > 0 || this.#hasSaid) this.#lookIn(againMs)
    }
  }

  /** Answers when to look again. */
  async #look(): Promise<number> {
    const started = performance.now()
    const said = this.#toSay(started)
    if (said.length === 0) {
      this.#sightings.clear()
      if (this.#hasSaid) await this.#context.publish(null)
      this.#hasSaid = false
      return this.#untilNext()
    }
    const isFirst = !this.#hasSaid
    this.#hasSaid = true
    const { holder } = this.#context
    const own: SaidBy = { holder, knows: this.#knows, waits: isFirst ? [] : said.map(({ said }) => said) }
    const { now, others } = await this.#context.publish(JSON.stringify(own))
    this.#knows = now
    if (isFirst) {
      // It was so at some moment in between.
      this.#clock = now - (started + performance.now()) / 2
      return 0
    }
    const words = others.map(({ waits }) => JSON.parse(waits) as SaidBy)
    const suspects = mayBeStuck(
      [own, ...words].flatMap(({ holder, waits }) => waits.map((wait) => ({ ...wait, holder }))),
    )
    this.#sightings = this.#continued(suspects, now)
    // What we say ourselves is so at this moment.
    const saidAgain = new Map(said.map(({ watched }) => [watched.id, Number.POSITIVE_INFINITY]))
    for (const { waits, knows } of words) for (const { id } of waits) saidAgain.set(id, knows)
    const believed = new Set<ClaimingWait>()
    for (const wait of suspects.filter(({ id }) => this.#isOurs(id))) {
      const circle = [wait, ...waitedFor(wait, suspects)]
      const allSeenAt = Math.max(...circle.map(({ id }) => this.#sightings.get(id)!.at))
      if (circle.every(({ id }) => saidAgain.get(id)! > allSeenAt && allSeenAt < now)) {
        for (const each of circle) believed.add(each)
      }
    }
    if (believed.size > 0) await this.#judge([...believed], now)
    return LOOK_AGAIN_MS
  }

  /** When each of them was first seen as it is now, at this look or at one of those before. */
  #continued(suspects: readonly ClaimingWait[], now: number): Map<string, Sighting> {
    return new Map(
      suspects.map((wait) => {
        const signature = signatureOf(wait)
        const before = this.#sightings.get(wait.id)
        return [wait.id, before?.signature === signature ? before : { signature, at: now }]
      }),
    )
  }

  #isOurs(id: string): boolean {
    return [...this.#watched].some((watched) => watched.id === id)
  }

  async #judge(suspects: readonly ClaimingWait[], now: number): Promise<void> {
    const ours = new Map([...this.#watched].map((watched) => [watched.id, watched]))
    const names = [...new Set(suspects.map(({ name }) => name))]
    const locks = new Map(await Promise.all(names.map(async (name) => [name, await this.#context.look(name)] as const)))
    for (const circle of circlesOf(stuckBy(suspects, locks, now))) {
      const victim = ours.get(circle.victim.id)
      // It may have been served, or have left, meanwhile.
      if (victim === undefined || !this.#watched.delete(victim)) continue
      victim.reject(toError(circle))
    }
  }

  #toSay(now: number): { watched: Watched; said: Said }[] {
    return [...this.#watched]
      .filter(({ startedAt }) => now - startedAt >= UNPUBLISHED_MS)
      .map((watched) => {
        const { id, name, weight, startedAt } = watched
        const since = Math.round(this.#clock + startedAt)
        const queuedAt = watched.queuedAt?.()
        const queued = queuedAt === undefined ? null : Math.round(this.#clock + queuedAt)
        return { watched, said: { id, name, weight, since, queued, claims: watched.claims() } }
      })
      .filter(({ said }) => said.claims.length > 0)
  }

  #untilNext(): number {
    const now = performance.now()
    const due = [...this.#watched].map(({ startedAt }) => startedAt + UNPUBLISHED_MS - now).filter((ms) => ms > 0)
    // Those that have waited for longer hold nothing now, and may have something later.
    return Math.min(UNPUBLISHED_MS, ...due)
  }
}

function signatureOf({ name, weight, claims }: ClaimingWait): string {
  return JSON.stringify([name, weight, claims])
}

function toError(circle: Circle): DeadlockError {
  const text = described(circle)
  return new DeadlockError(
    circle.victim.name,
    `those who hold locks wait for each other in a circle, and the caller came last: ${text.join(', ')}. Release what you hold, and try again`,
    text,
  )
}
