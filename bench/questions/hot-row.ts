import { dotChart, panelsOf } from '../chart.ts'
import { type Contender, type ContenderName, open } from '../contenders.ts'
import { type Connection, connect } from '../drivers.ts'
import { type Metrics, median, percentile, type Question, repeat } from '../harness.ts'
import { type Engine, kindOf, type Target } from '../servers.ts'

const TABLES = { rowlock: 'rowlock_locks', 'raw UPDATEs': 'bench_locks' } as const satisfies Partial<
  Record<ContenderName, string>
>
type Entrant = keyof typeof TABLES

const LOCK = 'hot'

export const hotRow: Question = {
  name: 'hot-row',
  title: 'One lock, used over and over',
  method:
    'A pair before and after so many cycles of one lock, and the size of the table (of the file, on SQLite) after them. On PostgreSQL those cycles, unlike the pairs that are measured, ' +
    'commit asynchronously, so that a million of them take minutes. Before and after are measured one round after the other, so their ratio shows the noise of the machine as well.',
  engines: { quick: ['postgres18'], full: ['postgres18', 'mysql', 'mariadb', 'sqlite'] },
  compared: ['after, p50 ms'],
  floors: ['raw UPDATEs'],
  async measure(bench, engine) {
    const target = await bench.servers.target(engine)
    const cycles = bench.pick({ quick: 1_500, full: kindOf(engine) === 'postgres' ? 1_000_000 : 20_000 })
    const forMs = bench.pick({ quick: 400, full: 2000 })
    const measured = new Map<Entrant, Metrics[]>()
    for (const name of Object.keys(TABLES) as Entrant[]) measured.set(name, [await wear(target, name, cycles, forMs)])
    bench.record(hotRow.name, engine, `${cycles} cycles`, measured)
  },
  charts: (figures) => [
    dotChart(
      'hot-row',
      'One lock, after many cycles: p50 of a pair, ms (log scale)',
      panelsOf(figures, 'after, p50 ms'),
    ),
  ],
}

async function wear(target: Target, name: Entrant, cycles: number, forMs: number): Promise<Metrics> {
  const connection = await connect(target, 1)
  const contender = await open(name, target)
  const hurried = await open(name, asynchronous(target))
  try {
    const before = await pairMs(contender, forMs)
    for (let cycle = 0; cycle < cycles; cycle++) await (await hurried.acquire(LOCK)).release()
    const after = await pairMs(contender, forMs)
    return {
      'before, p50 ms': percentile(before, 0.5),
      'after, p50 ms': percentile(after, 0.5),
      'after / before': median(after) / median(before),
      'table KiB': (await tableBytes(connection, target.engine, TABLES[name])) / 1024,
    }
  } finally {
    await hurried.close()
    await contender.close()
    await connection.close()
  }
}

async function pairMs({ acquire }: Contender, forMs: number): Promise<number[]> {
  const pairs = () => repeat(forMs, async () => (await acquire(LOCK)).release())
  await pairs()
  return pairs()
}

function asynchronous(target: Target): Target {
  if (kindOf(target.engine) !== 'postgres') return target
  const url = new URL(target.url)
  url.searchParams.set('options', '-c synchronous_commit=off')
  return { ...target, url: url.href }
}

async function tableBytes({ sql }: Connection, engine: Engine, table: string): Promise<number> {
  switch (kindOf(engine)) {
    case 'postgres':
      return number(await sql(`select pg_total_relation_size('${table}') as bytes`))
    case 'mysql':
      await sql(`analyze table ${table}`)
      return number(
        await sql(
          `select data_length + index_length as bytes from information_schema.tables
           where table_schema = database() and table_name = '${table}'`,
        ),
      )
    case 'sqlite':
      return number(await sql('select page_count * page_size as bytes from pragma_page_count, pragma_page_size'))
  }
}

function number([row]: Record<string, unknown>[]): number {
  return Number(row?.bytes)
}
