import { dotChart, panelsOf } from '../chart.ts'
import { connect } from '../drivers.ts'
import { inRounds, latencies, type Question, repeat } from '../harness.ts'
import { createLocks } from '../library.ts'
import { freshName, kindOf } from '../servers.ts'

export const ONCE_SETTINGS = { done: 'has run', fresh: 'a new key', within: 'a new key, in a transaction' }
export const BY_KEY = 'SELECT by primary key'
export const PAIR = 'acquire, release'
export const BY_HAND = 'INSERT by hand'

const INSERT_IF_NEW = {
  postgres: (key: string) => `insert into bench_done values ('${key}', null) on conflict do nothing`,
  mysql: (key: string) => `insert ignore into bench_done values ('${key}', null)`,
  sqlite: (key: string) => `insert into bench_done values ('${key}', null) on conflict do nothing`,
}

export const once: Question = {
  name: 'once',
  title: 'What is done once',
  method:
    'locks.once of a key that is done, beside a select of a row of such a table by its primary key; of a new key each time, beside acquiring and releasing a lock of a new name, which is two statements; ' +
    'and within(tx).once of a new key in a transaction, isolation known, beside the insert by hand that does nothing if the key is there. The functions do nothing and give nothing.',
  engines: { quick: ['postgres18'], full: ['postgres18', 'mysql', 'mariadb', 'sqlite'] },
  compared: ['p50 ms'],
  floors: [BY_KEY, PAIR, BY_HAND],
  async measure(bench, engine) {
    const target = await bench.servers.target(engine)
    const { rounds, forMs } = bench.pick({ quick: { rounds: 8, forMs: 80 }, full: { rounds: 11, forMs: 200 } })
    const connection = await connect(target, 2)
    const locks = createLocks(connection.adapter)
    let count = 0
    const newKey = () => `bench once ${process.pid} ${count++}`
    const insert = INSERT_IF_NEW[kindOf(engine)]
    try {
      await connection.sql('create table bench_done (entry varchar(255) primary key, value varchar(255))')
      await connection.sql(`insert into bench_done values ('done', 'value')`)
      const key = freshName()
      await locks.once(key, {}, () => 'value')
      const settings: Record<string, Record<string, () => Promise<unknown>>> = {
        [ONCE_SETTINGS.done]: {
          'locks.once': () => locks.once(key, {}, () => 'value'),
          [BY_KEY]: () => connection.sql(`select value from bench_done where entry = 'done'`),
        },
        [ONCE_SETTINGS.fresh]: {
          'locks.once': () => locks.once(newKey(), {}, () => undefined),
          [PAIR]: async () => (await locks.acquire(newKey())).release(),
        },
        [ONCE_SETTINGS.within]: {
          'within(tx).once': () =>
            connection.transaction((tx) =>
              locks.within(tx, { isolation: 'read committed' }).once(newKey(), {}, () => undefined),
            ),
          [BY_HAND]: () => connection.transaction((_, sql) => sql(insert(newKey()))),
        },
      }
      for (const [setting, contenders] of Object.entries(settings)) {
        const names = Object.keys(contenders)
        for (const name of names) await repeat(forMs, contenders[name]!)
        const measured = await inRounds(rounds, names, async (name) =>
          latencies(await repeat(forMs, contenders[name]!)),
        )
        bench.record(once.name, engine, setting, measured)
      }
    } finally {
      await locks.close()
      await connection.close()
    }
  },
  charts: (figures) => [dotChart('once', 'What is done once: p50, ms (log scale)', panelsOf(figures, 'p50 ms'))],
}
