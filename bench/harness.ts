import type { Chart } from './chart.ts'
import { type BenchProcess, startProcess } from './processes.ts'
import type { Engine, Servers } from './servers.ts'

/** What one contender did in one round, by metric; a metric's name ends with its unit. */
export type Metrics = Record<string, number>

/** A number of the report: what one contender reached in every round. */
export interface Figure {
  readonly question: string
  readonly engine: Engine
  readonly setting: string
  readonly contender: string
  readonly metric: string
  readonly rounds: readonly number[]
}

/** Something to be measured, on one engine after the other. */
export interface Question {
  readonly name: string
  readonly title: string
  /** How it is measured, for readers of the report. */
  readonly method: string
  readonly engines: { readonly quick: readonly Engine[]; readonly full: readonly Engine[] }
  /** The first of these metrics that a contender has is the one that is compared. */
  readonly compared: readonly string[]
  /** The first of these contenders that took part is what the engine itself needs: the floor. */
  readonly floors: readonly string[]
  measure(bench: Bench, engine: Engine): Promise<void>
  charts(figures: readonly Figure[]): Chart[]
}

/** What a question is given to measure with. */
export class Bench {
  readonly servers: Servers
  readonly quick: boolean
  readonly figures: Figure[] = []
  readonly #processes: BenchProcess[] = []
  readonly #ownProcesses = new Map<string, BenchProcess>()

  constructor(servers: Servers, quick: boolean) {
    this.servers = servers
    this.quick = quick
  }

  /** Quick runs ask for less. */
  pick<T>(choice: { readonly quick: T; readonly full: T }): T {
    return this.quick ? choice.quick : choice.full
  }

  /** Processes that stay for the next question: it takes seconds to start some. */
  async processes(count: number): Promise<BenchProcess[]> {
    const missing = Math.max(0, count - this.#processes.length)
    this.#processes.push(...(await Promise.all(Array.from({ length: missing }, startProcess))))
    return this.#processes.slice(0, count)
  }

  /** A process in which nobody else runs, and which stays, too: like an application that has one contender only. */
  async processOf(contender: string): Promise<BenchProcess> {
    const own = this.#ownProcesses.get(contender) ?? (await startProcess())
    this.#ownProcesses.set(contender, own)
    return own
  }

  async close(): Promise<void> {
    await Promise.all([...this.#processes, ...this.#ownProcesses.values()].map((process) => process.kill()))
  }

  record(question: string, engine: Engine, setting: string, measured: ReadonlyMap<string, readonly Metrics[]>): void {
    for (const [contender, rounds] of measured) {
      for (const metric of Object.keys(rounds[0] ?? {})) {
        const values = rounds.map((metrics) => metrics[metric]!)
        this.figures.push({ question, engine, setting, contender, metric, rounds: values })
      }
    }
  }
}

/** Milliseconds of the monotonic clock that all processes of a machine share. */
export function now(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1000 + nanoseconds / 1e6
}

/**
 * The contenders take turns, in another order each round, so that whatever else the machine does hits all of them alike.
 */
export async function inRounds<Name extends string>(
  rounds: number,
  names: readonly Name[],
  measure: (name: Name) => Promise<Metrics>,
): Promise<Map<Name, Metrics[]>> {
  const measured = new Map<Name, Metrics[]>(names.map((name) => [name, []]))
  for (let round = 0; round < rounds; round++) {
    const first = round % names.length
    for (const name of [...names.slice(first), ...names.slice(0, first)]) measured.get(name)!.push(await measure(name))
  }
  return measured
}

/** By nearest rank: the largest value where there are too few for the fraction to tell. */
export function percentile(values: readonly number[], fraction: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(sorted.length * fraction) - 1)] ?? Number.NaN
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** The items by key, in the order in which the keys appear. */
export function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const item of items) {
    const key = keyOf(item)
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [item])
    else group.push(item)
  }
  return groups
}

export function latencies(samples: readonly number[]): Metrics {
  return { 'p50 ms': percentile(samples, 0.5), 'p99 ms': percentile(samples, 0.99) }
}

/** The median of the ratios of rounds, since the two were measured side by side in each of them. */
export function ratio(figure: Figure, base: Figure): number {
  if (figure.rounds.length !== base.rounds.length) return median(figure.rounds) / median(base.rounds)
  return median(figure.rounds.map((value, round) => value / base.rounds[round]!))
}

/** Repeats an operation for about so many milliseconds; answers how long each took. */
export async function repeat(forMs: number, operation: () => Promise<unknown>): Promise<number[]> {
  const durations: number[] = []
  const end = now() + forMs
  for (let startedAt = now(); startedAt < end; ) {
    await operation()
    const endedAt = now()
    durations.push(endedAt - startedAt)
    startedAt = endedAt
  }
  return durations
}
