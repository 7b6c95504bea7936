import { setTimeout as sleep } from 'node:timers/promises'
import { dotChart, panelsOf } from '../chart.ts'
import { type ContenderName, open } from '../contenders.ts'
import { connect } from '../drivers.ts'
import { inRounds, type Metrics, now, type Question } from '../harness.ts'
import { createLocks } from '../library.ts'
import { freshName, type Target } from '../servers.ts'
import { recordStatements, type Sent } from '../statements.ts'

const LEASES = 10_000
const CONNECTIONS = 10
/** How many are taken at once: renewals of the first shall not queue for a connection behind all the others. */
const TOGETHER = 500
const FLOOR = 'one raw UPDATE'
const PEERS: readonly ContenderName[] = ['verrou (Kysely)', 'redlock']

export const renewal: Question = {
  name: 'renewal',
  title: `Renewing ${LEASES} leases`,
  method:
    `One process holds ${LEASES} leases, which rowlock renews every third of their ttl; counted over whole intervals: the statements, for how long one was under way, ` +
    'and the renewals, which have to be as many as the leases, with none lost. verrou and redlock renew nothing by themselves: their extend is called for each lock, ' +
    'all at once. The floor moves the expiry of as many rows in one statement.',
  engines: { quick: ['postgres18'], full: ['postgres18', 'mysql', 'mariadb', 'sqlite'] },
  compared: ['ms per interval'],
  floors: [FLOOR],
  async measure(bench, engine) {
    const target = await bench.servers.target(engine)
    const intervals = bench.pick({ quick: 2, full: 3 })
    const ttlMs = bench.pick({ quick: 4500, full: 15_000 })
    const setting = `${LEASES} leases`
    bench.record(renewal.name, engine, setting, new Map([['rowlock', await heartbeats(target, ttlMs, intervals)]]))
    bench.record(renewal.name, engine, setting, new Map([[FLOOR, await oneUpdate(target, intervals)]]))
    if (!bench.quick && engine === 'postgres18')
      bench.record(renewal.name, engine, setting, await extending(target, intervals))
  },
  charts: (figures) => [
    dotChart('renewal', `Renewing ${LEASES} leases once: ms (log scale)`, panelsOf(figures, 'ms per interval')),
  ],
}

/** What rowlock does on its own accord, interval by interval. */
async function heartbeats(target: Target, ttlMs: number, intervals: number): Promise<Metrics[]> {
  const connection = await connect(target, CONNECTIONS)
  const locks = createLocks(connection.adapter, { ttl: ttlMs, wait: ttlMs })
  const intervalMs = ttlMs / 3
  let renewed = 0
  let lost = 0
  locks.on(({ type }) => {
    if (type === 'renewed') renewed++
    if (type === 'lost') lost++
  })
  try {
    for (let taken = 0; taken < LEASES; taken += TOGETHER) {
      await Promise.all(Array.from({ length: TOGETHER }, () => locks.acquire(freshName())))
    }
    // Those that were taken first have fallen into step with the others by then.
    await sleep(intervalMs)
    const measured: { statements: Sent[]; renewed: number; lost: number }[] = []
    for (let interval = 0; interval < intervals; interval++) {
      renewed = 0
      const stop = recordStatements()
      await sleep(intervalMs)
      measured.push({ statements: stop(), renewed, lost })
    }
    // Those that were under way when their interval ended are answered by then.
    await sleep(intervalMs / 2)
    return measured.map(({ statements, renewed, lost }) => ({
      'statements per interval': statements.length,
      'ms per interval': busyMs(statements),
      'renewals per interval': renewed,
      'leases lost': lost,
    }))
  } finally {
    await locks.close()
    await connection.close()
  }
}

async function oneUpdate(target: Target, times: number): Promise<Metrics[]> {
  const connection = await connect(target, 1)
  try {
    const names = Array.from({ length: LEASES }, () => `'${freshName()}'`)
    const rows = names.map((name) => `(${name}, null, 1, ${target.engine.startsWith('postgres') ? 'now()' : 0})`)
    await connection.sql(`insert into bench_locks values ${rows.join(', ')}`)
    const later = target.engine.startsWith('postgres') ? `expires_at + interval '1 s'` : 'expires_at + 1'
    const measured: Metrics[] = []
    for (let time = 0; time < times; time++) {
      const startedAt = now()
      await connection.sql(`update bench_locks set expires_at = ${later} where name in (${names.join(', ')})`)
      measured.push({ 'statements per interval': 1, 'ms per interval': now() - startedAt })
    }
    return measured
  } finally {
    await connection.close()
  }
}

async function extending(target: Target, times: number): Promise<Map<ContenderName, Metrics[]>> {
  const peers = new Map(
    await Promise.all(PEERS.map(async (name) => [name, await open(name, target, CONNECTIONS)] as const)),
  )
  try {
    const held = new Map<ContenderName, readonly { extend?(): Promise<unknown> }[]>()
    for (const [name, { acquire }] of peers) {
      held.set(name, await Promise.all(Array.from({ length: LEASES }, () => acquire(freshName()))))
    }
    return await inRounds(times, PEERS, async (name) => {
      const stop = recordStatements()
      await Promise.all(held.get(name)!.map((lock) => lock.extend?.()))
      const statements = stop()
      return { 'statements per interval': statements.length, 'ms per interval': busyMs(statements) }
    })
  } finally {
    for (const { close } of peers.values()) await close()
  }
}

/** For how long at least one statement was under way. */
function busyMs(statements: readonly Sent[]): number {
  let busy = 0
  let until = Number.NEGATIVE_INFINITY
  for (const { sentAt, answeredAt } of statements) {
    busy += Math.max(0, answeredAt - Math.max(sentAt, until))
    until = Math.max(until, answeredAt)
  }
  return busy
}
