import { dotChart, panelsOf } from '../chart.ts'
import { type ContenderName, open, takingPart } from '../contenders.ts'
import { inRounds, latencies, type Metrics, type Question, repeat } from '../harness.ts'
import { freshName, type Target } from '../servers.ts'

/** Those that targets compare. */
const COMPARED: readonly ContenderName[] = [
  'rowlock',
  'rowlock (Kysely)',
  'rowlock (Knex)',
  'rowlock (Drizzle)',
  'rowlock (TypeORM)',
  'rowlock (Sequelize)',
  'rowlock (Prisma)',
  'raw UPDATEs',
  'raw UPDATEs (Kysely)',
  'raw UPDATEs (Knex)',
  'raw UPDATEs (Drizzle)',
  'raw UPDATEs (TypeORM)',
  'raw UPDATEs (Sequelize)',
  'raw UPDATEs (Prisma)',
  'raw UPDATEs, asynchronous release',
  "rowlock's statements alone",
  'verrou (Kysely)',
]
/** The quick mode has no time for these. */
const OTHERS: readonly ContenderName[] = [
  'SELECT FOR UPDATE',
  'pg_advisory_lock',
  'GET_LOCK',
  'advisory-lock',
  'verrou (Knex)',
  'redlock',
]

/** Plans are made, and V8 has compiled what is hot, which takes a thousand pairs or two. */
const WARM_UP_MS = { quick: 300, full: 1500 }

export const pair: Question = {
  name: 'pair',
  title: 'Acquire and release, nobody waiting',
  method:
    'One caller, one lock name whose row exists, acquire and release in a loop. The floor is two prepared UPDATEs by primary key in a table like ' +
    "rowlock's, through the same driver, both durable. Through an ORM the same two UPDATEs, durable too, go by that ORM's own call for SQL that an application has written, with parameters; " +
    "Prisma has its driver adapter for pg. rowlock's release commits asynchronously on PostgreSQL (a crash that undoes it costs the next holder one " +
    "ttl), so the two prepared UPDATEs with such a release stand beside it, as well as rowlock's own statements without the library, which wait for no row, and hand over. " +
    'advisory-lock connects anew for every lock.',
  engines: {
    quick: ['postgres18'],
    full: ['postgres18', 'postgres15', 'mysql', 'mariadb', 'sqlite'],
  },
  compared: ['p50 ms'],
  floors: ['raw UPDATEs'],
  async measure(bench, engine) {
    const plan = {
      warmUpMs: bench.pick(WARM_UP_MS),
      ...bench.pick({ quick: { rounds: 5, forMs: 60 }, full: { rounds: 9, forMs: 200 } }),
    }
    const names = takingPart(engine, bench.pick({ quick: COMPARED, full: [...COMPARED, ...OTHERS] }))
    const measured = await measurePairs(await bench.servers.target(engine), names, plan)
    bench.record(pair.name, engine, 'one caller', measured)
  },
  charts: (figures) => [
    dotChart('pair', 'Acquire and release, nobody waiting: p50, ms (log scale)', panelsOf(figures, 'p50 ms')),
  ],
}

interface PairsPlan {
  readonly rounds: number
  readonly forMs: number
  readonly warmUpMs: number
}

export async function measurePairs(
  target: Target,
  names: readonly ContenderName[],
  { rounds, forMs, warmUpMs }: PairsPlan,
): Promise<Map<ContenderName, Metrics[]>> {
  const lock = freshName()
  const contenders = new Map(await Promise.all(names.map(async (name) => [name, await open(name, target)] as const)))
  const pairs = (name: ContenderName, milliseconds: number) => {
    const { acquire } = contenders.get(name)!
    return repeat(milliseconds, async () => (await acquire(lock)).release())
  }
  try {
    for (const name of names) await pairs(name, warmUpMs)
    return await inRounds(rounds, names, async (name) => latencies(await pairs(name, forMs)))
  } finally {
    for (const { close } of contenders.values()) await close()
  }
}
