import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { postgresStatements } from '../../src/engines/postgres/store.ts'
import { engines, type OpenEngine } from '../engines.ts'

/** They look at every lock, or, the guard of many, at few locks in their order. */
const MAY_SCAN = ['list', 'guardMany']
/** What many callers ask most, and in one statement for all. */
const ALWAYS_LOOK_UP = ['acquireAlike', 'releaseUnawaited']

describe.each(engines().filter(({ connector }) => connector === 'pg'))('plans on $name', (engine) => {
  let open: OpenEngine
  let client: Client

  beforeAll(async () => {
    open = await engine.open()
    client = new Client({ connectionString: open.url })
    await client.connect()
    // The plan that a prepared statement gets for good, after a few executions.
    await client.query('set plan_cache_mode = force_generic_plan')
  })

  afterAll(async () => {
    await client.end()
    await open.close()
  })

  it.each([
    { table: 'has not been analyzed', fill: '', looked: (name: string) => !MAY_SCAN.includes(name) },
    {
      table: 'has few rows',
      fill: `insert into rowlock_locks (name, token, expires_at) select 'few ' || i, 1, now() from generate_series(1, 20) as i; analyze rowlock_locks;
        insert into rowlock_marks (kind, name, part, token, written_at) select 'checkpoint', 'few ' || i, '', 1, now() from generate_series(1, 20) as i; analyze rowlock_marks`,
      looked: (name: string) => ALWAYS_LOOK_UP.includes(name),
    },
    {
      table: 'has many',
      fill: `insert into rowlock_locks (name, token, expires_at) select 'many ' || i, 1, now() from generate_series(1, 20000) as i; analyze rowlock_locks;
        insert into rowlock_marks (kind, name, part, token, written_at) select 'checkpoint', 'many ' || i, '', 1, now() from generate_series(1, 20000) as i; analyze rowlock_marks`,
      looked: (name: string) => !MAY_SCAN.includes(name),
    },
  ])('look locks up where the table $table', async ({ fill, looked }) => {
    await client.query(fill)
    const scanning: string[] = []
    for (const [name, text] of statements()) {
      const plan = await planOf(client, text)
      expect(plan).toMatch(/Scan|Insert/)
      if (/Seq Scan on rowlock_(locks|marks)/.test(plan)) scanning.push(name)
    }
    expect(scanning.filter(looked)).toEqual([])
    // Or none would be seen.
    expect(scanning).toContain('list')
  })
})

function statements(): [string, string][] {
  return Object.entries(postgresStatements({})).map(([name, statement]) => {
    const { text } = (statement as (values: object) => { text: string })({})
    return [name, text]
  })
}

async function planOf(client: Client, text: string): Promise<string> {
  const count = Math.max(0, ...[...text.matchAll(/\$(\d+)/g)].map(([, number]) => Number(number)))
  await client.query(`prepare planned as ${text}`)
  const values = count === 0 ? '' : `(${Array(count).fill('null').join(', ')})`
  const { rows } = await client.query(`explain execute planned${values}`)
  await client.query('deallocate planned')
  return rows.map((row) => row['QUERY PLAN']).join('\n')
}
