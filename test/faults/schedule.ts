/** Numbers from 0 up to 1, the same for the same seed. */
export type Random = () => number

/** Mulberry32, by Tommy Ettinger: short, and good enough to spread faults. */
export function random(seed: number): Random {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** What a kind of fault takes for itself while it lasts. */
export type Scope =
  /** A worker process. */
  | 'worker'
  /** The network of a worker that is connected through a proxy. */
  | 'network'
  /** Rows of the database, or its sessions. */
  | 'database'
  /** A node of a cluster: one at a time. */
  | 'node'
  /** The server itself: nothing else happens meanwhile. */
  | 'server'

export interface FaultTerms {
  readonly scope: Scope
  /** How long it lasts, in parts of the ttl: at least, at most. */
  readonly lasts: readonly [number, number]
  /** How often it has its turn in a round. Default 1. */
  readonly perRound?: number
}

export interface PlannedFault<Kind extends string = string> {
  readonly kind: Kind
  /** Milliseconds from the start of the run. */
  readonly at: number
  readonly milliseconds: number
  /** The worker's place in the crew; null where it concerns none. */
  readonly place: number | null
  /** From 0 up to 1, for whatever else the kind has to choose. */
  readonly choice: number
}

export interface PlanOptions<Kind extends string> {
  readonly seed: number
  readonly durationMs: number
  readonly ttlMs: number
  /** Mean time from one fault to the next. */
  readonly everyMs: number
  readonly kinds: ReadonlyMap<Kind, FaultTerms>
  readonly places: number
  isProxied(place: number): boolean
}

/** Between two faults of one worker: it has to get somewhere before the next. */
const RECOVERY_MS = 300
/** What replacing a killed worker or restarting a server takes, about. */
const REPLACEMENT_MS = 1500
/** The part of the workers that has no fault. */
const UNDISTURBED = 0.4
/** How far faults may be put off until there is a place for them. */
const BACKLOG_MS = 2000

/**
 * All faults of a run. Each kind has its turns in each round, in an order that the seed decides: those of the server first,
 * since nothing else happens meanwhile. A worker has one fault at a time, and a part of the workers has none.
 */
export function plan<Kind extends string>(options: PlanOptions<Kind>): PlannedFault<Kind>[] {
  const { seed, durationMs, ttlMs, everyMs, kinds, places, isProxied } = options
  const chance = random(seed)
  const planned: PlannedFault<Kind>[] = []
  const timetable = new Timetable(places)
  const isOfServer = (kind: Kind) => kinds.get(kind)!.scope === 'server'
  const turns = [...kinds].flatMap(([kind, { perRound = 1 }]) => Array.from({ length: perRound }, () => kind))
  let round: Kind[] = []
  for (let at = everyMs; at < durationMs; at += everyMs * (0.5 + chance())) {
    if (round.length === 0) {
      const shuffledTurns = shuffled(turns, chance)
      round = [...shuffledTurns.filter(isOfServer), ...shuffledTurns.filter((kind) => !isOfServer(kind))]
    }
    const kind = round.shift()!
    const { scope, lasts } = kinds.get(kind)!
    const milliseconds = Math.round(ttlMs * (lasts[0] + (lasts[1] - lasts[0]) * chance()))
    const choice = chance()
    const occupied = Math.max(milliseconds, kind.endsWith('killed') ? REPLACEMENT_MS : 0) + RECOVERY_MS
    let place: number | null = null
    let start = timetable.whenServerIsUp(at)
    if (scope === 'server') {
      start = at = timetable.whenIdle(at)
      timetable.occupyServer(start + occupied)
    } else if (scope === 'worker' || scope === 'network') {
      const able = [...Array(places).keys()].filter((each) => scope === 'worker' || isProxied(each))
      // If there is a choice, the faults of the network are left those places that only they can use.
      const preferred = shuffled(able, chance).sort((one, other) => Number(isProxied(one)) - Number(isProxied(other)))
      ;[place, start] = timetable.firstFree(preferred, start)
      timetable.occupy(place, start + occupied)
    }
    at = Math.max(at, start - BACKLOG_MS)
    // Not if it is too long for what is left.
    if (start + milliseconds <= durationMs) planned.push({ kind, at: Math.round(start), milliseconds, place, choice })
  }
  return planned.sort((one, other) => one.at - other.at)
}

/** Who has a fault, and until when. */
class Timetable {
  readonly #busyUntil: number[]
  #serverUntil = 0

  constructor(places: number) {
    this.#busyUntil = Array.from({ length: places }, () => 0)
  }

  whenServerIsUp(at: number): number {
    return Math.max(at, this.#serverUntil)
  }

  whenIdle(at: number): number {
    return Math.max(at, this.#serverUntil, ...this.#busyUntil)
  }

  occupyServer(until: number): void {
    this.#serverUntil = until
  }

  /** Which of these places is free first, and when, such that enough others have no fault then. */
  firstFree(places: readonly number[], at: number): [place: number, start: number] {
    const ends = [...this.#busyUntil].sort((one, other) => one - other)
    const calm = ends[Math.ceil(ends.length * UNDISTURBED) - 1]!
    const starts = places.map((place): [number, number] => [place, Math.max(at, calm, this.#busyUntil[place]!)])
    return starts.reduce((first, other) => (other[1] < first[1] ? other : first))
  }

  occupy(place: number, until: number): void {
    this.#busyUntil[place] = until
  }
}

function shuffled<T>(items: readonly T[], chance: Random): T[] {
  const result = [...items]
  for (let last = result.length - 1; last > 0; last--) {
    const other = Math.floor(chance() * (last + 1))
    ;[result[last], result[other]] = [result[other]!, result[last]!]
  }
  return result
}
