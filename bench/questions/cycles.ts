import { lineChart } from '../chart.ts'
import { type ContenderName, takingPart } from '../contenders.ts'
import { type Bench, inRounds, type Metrics, type Question } from '../harness.ts'
import type { BenchProcess } from '../processes.ts'
import { type Engine, freshName, kindOf, type Target } from '../servers.ts'

const CALLERS = [1, 4, 16, 64, 256, 1024, 2048] as const
const SOME_CALLERS = [16, 256, 2048] as const
const CONNECTIONS = [1, 4, 10] as const
const CONTENDERS: readonly ContenderName[] = [
  'rowlock',
  'raw UPDATEs',
  'raw UPDATEs, in batches',
  'redlock',
  'redlock, auto-pipelined',
]
/** Those that are measured once, at the setting that most is asked of; for the peers the quick mode has no time. */
const AT_256: readonly ContenderName[] = ['rowlock (Kysely)']
const PEERS_AT_256: readonly ContenderName[] = ['pg_advisory_lock', 'GET_LOCK', 'verrou (Kysely)', 'verrou (Knex)']

/** At the setting with a target: contenders there differ by less than the rounds of one of them do, so a few would not tell. */
const ROUNDS_OF_MOST = 11

/** Until V8 has compiled what is hot, which takes seconds; then until rows, connections and their plans are there. */
const WARM_UP_MS = { first: { quick: 1500, full: 5000 }, later: 300 }
const warm = new WeakSet<BenchProcess>()

export const cyclesSetting = (callers: number, connections: number) =>
  `${callers} ${callers === 1 ? 'caller' : 'callers'}, ${connections} ${connections === 1 ? 'connection' : 'connections'}`

export const cycles: Question = {
  name: 'cycles',
  title: 'Cycles of acquire and release by many callers, each with a lock of its own',
  method:
    'Each contender has a process of its own, in which each caller acquires and releases a lock of its own in a loop. The floor sends the two raw UPDATEs of each caller over a pool of so many connections; in batches, those of all ' +
    'callers who ask at once in one statement, and nothing else. ' +
    'redlock has one connection to a Redis that writes nothing to disk, once as it comes and once with the auto-pipelining of ioredis. Locks that live as long as a session ' +
    'or a transaction need a connection for as long as they are held, and queue for the pool.',
  engines: { quick: ['postgres18'], full: ['postgres18', 'mysql', 'mariadb', 'sqlite'] },
  compared: ['cycles per s'],
  floors: ['raw UPDATEs'],
  async measure(bench, engine) {
    const target = await bench.servers.target(engine)
    const { rounds, forMs } = bench.pick({ quick: { rounds: 3, forMs: 400 }, full: { rounds: 5, forMs: 500 } })
    for (const { callers, connections } of settingsOf(engine, bench.quick)) {
      const isMost = callers === 256 && connections === 10
      const more = isMost ? [...AT_256, ...bench.pick({ quick: [], full: PEERS_AT_256 })] : []
      const names = takingPart(engine, [...CONTENDERS, ...more])
      const plan = { callers, connections, rounds: isMost && !bench.quick ? ROUNDS_OF_MOST : rounds, forMs }
      const measured = await measureCycles(bench, target, names, plan)
      bench.record(cycles.name, engine, cyclesSetting(callers, connections), measured)
    }
  },
  charts: (figures) =>
    [...new Set(figures.map(({ engine }) => engine))].map((engine) =>
      lineChart(`cycles-${engine}`, {
        title: `${engine}: cycles per second, by callers`,
        x: 'callers',
        y: 'cycles per s',
        figures: figures.filter((figure) => figure.engine === engine && /, (1|10) connections?$/.test(figure.setting)),
        seriesOf: ({ contender, setting }) => `${contender}, ${setting.split(', ')[1]}`,
      }),
    ),
}

interface Setting {
  readonly callers: number
  readonly connections: number
}

interface Plan extends Setting {
  readonly rounds: number
  readonly forMs: number
}

function settingsOf(engine: Engine, quick: boolean): Setting[] {
  if (quick) return combined([256], [10])
  if (engine === 'postgres18') return combined(CALLERS, CONNECTIONS)
  // A file of SQLite has one writer, whoever asks.
  return combined(SOME_CALLERS, [kindOf(engine) === 'sqlite' ? 1 : 10])
}

function combined(callers: readonly number[], connections: readonly number[]): Setting[] {
  return connections.flatMap((some) => callers.map((many) => ({ callers: many, connections: some })))
}

export async function measureCycles(
  bench: Bench,
  target: Target,
  names: readonly ContenderName[],
  { callers, connections, rounds, forMs }: Plan,
): Promise<Map<ContenderName, Metrics[]>> {
  const locks = Array.from({ length: callers }, freshName)
  const processes = new Map(await Promise.all(names.map(async (name) => [name, await bench.processOf(name)] as const)))
  const cyclesPerSecond = (name: ContenderName, milliseconds: number) =>
    processes.get(name)!.call('cyclesPerSecond', name, locks, milliseconds)
  for (const [name, process] of processes) {
    await process.call('open', name, target, connections)
    await cyclesPerSecond(name, warm.has(process) ? WARM_UP_MS.later : bench.pick(WARM_UP_MS.first))
    warm.add(process)
  }
  const measured = await inRounds(rounds, names, async (name) => ({
    'cycles per s': await cyclesPerSecond(name, forMs),
  }))
  for (const [name, process] of processes) await process.call('close', name)
  return measured
}
