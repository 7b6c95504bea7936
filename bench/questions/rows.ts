import { lineChart } from '../chart.ts'
import { type Contender, type ContenderName, open } from '../contenders.ts'
import { connect } from '../drivers.ts'
import { inRounds, latencies, type Metrics, type Question, repeat } from '../harness.ts'
import { createLocks } from '../library.ts'
import { kindOf, type Target } from '../servers.ts'

const CONTENDERS = ['rowlock', 'raw UPDATEs'] as const satisfies readonly ContenderName[]
const FULL = [1_000, 10_000, 100_000, 1_000_000] as const
const QUICK = [1_000, 100_000] as const

export const rowsSetting = (rows: number) => `${rows} rows`

export const rows: Question = {
  name: 'rows',
  title: 'A pair among many locks',
  method:
    'Acquire and release of a random one of so many locks whose rows exist and are free; a database for each number, measured in turns. The floor does the same in a table ' +
    'with as many rows.',
  engines: { quick: ['postgres18'], full: ['postgres18', 'mysql', 'mariadb', 'sqlite'] },
  compared: ['p50 ms'],
  floors: ['raw UPDATEs'],
  async measure(bench, engine) {
    const sizes = bench.pick<readonly number[]>({ quick: QUICK, full: FULL })
    const { rounds, forMs } = bench.pick({ quick: { rounds: 5, forMs: 150 }, full: { rounds: 11, forMs: 250 } })
    const entrants = new Map<string, { size: number; name: ContenderName; contender: Contender }>()
    try {
      for (const size of sizes) {
        const target = await bench.servers.target(engine)
        await fill(target, size)
        for (const name of CONTENDERS)
          entrants.set(`${name} ${size}`, { size, name, contender: await open(name, target) })
      }
      const pairs = (entrant: string, milliseconds: number) => {
        const { contender, size } = entrants.get(entrant)!
        return repeat(milliseconds, async () => {
          const held = await contender.acquire(`row:${Math.floor(Math.random() * size)}`)
          await held.release()
        })
      }
      for (const entrant of entrants.keys()) await pairs(entrant, forMs)
      const measured = await inRounds(rounds, [...entrants.keys()], async (entrant) =>
        latencies(await pairs(entrant, forMs)),
      )
      for (const size of sizes) {
        const ofSize = CONTENDERS.map((name): [string, Metrics[]] => [name, measured.get(`${name} ${size}`)!])
        bench.record(rows.name, engine, rowsSetting(size), new Map(ofSize))
      }
    } finally {
      for (const { contender } of entrants.values()) await contender.close()
    }
  },
  charts: (figures) => [
    lineChart('rows', {
      title: 'A pair among many locks: p50',
      x: 'rows',
      y: 'ms',
      figures: figures.filter(({ metric }) => metric === 'p50 ms'),
      seriesOf: ({ contender, engine }) => `${contender}, ${engine}`,
    }),
  ],
}

/** Copies one lock that was used, as often as it takes, whatever columns rowlock's table has. */
async function fill(target: Target, size: number): Promise<void> {
  const connection = await connect(target, 1)
  try {
    const locks = createLocks(connection.adapter)
    await (await locks.acquire('template')).release()
    await locks.close()
    await connection.sql(
      `insert into bench_locks values ('template', null, 1, ${kindOf(target.engine) === 'postgres' ? 'now()' : 0})`,
    )
    for (const table of ['rowlock_locks', 'bench_locks']) {
      const [row] = await connection.sql(`select * from ${table} where name = 'template'`)
      const others = Object.keys(row!).filter((column) => column !== 'name')
      await connection.sql(
        `insert into ${table} (name, ${others.join(', ')})
         select ${rowName(target, size)}, ${others.join(', ')} from ${table} cross join ${digits(size)} where name = 'template'`,
      )
    }
    // What the server would do in the background meanwhile, it does now.
    if (kindOf(target.engine) === 'postgres') {
      await connection.sql('vacuum analyze')
      await connection.sql('checkpoint')
    }
  } finally {
    await connection.close()
  }
}

function digits(size: number): string {
  const ten = Array.from({ length: 10 }, (_, digit) => `select ${digit} as digit`).join(' union all ')
  return powersOfTen(size)
    .map((power) => `(${ten}) as d${power}`)
    .join(' cross join ')
}

function rowName({ engine }: Target, size: number): string {
  const number = powersOfTen(size)
    .map((power) => `${power} * d${power}.digit`)
    .join(' + ')
  return kindOf(engine) === 'mysql' ? `concat('row:', ${number})` : `'row:' || (${number})`
}

function powersOfTen(size: number): number[] {
  return Array.from({ length: Math.round(Math.log10(size)) }, (_, exponent) => 10 ** exponent)
}
