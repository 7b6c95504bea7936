import type { OpenEngine } from '../engines.ts'

/** How many deadlocks the server has seen in this database. MySQL and MariaDB know the last one only, so there 1 is the most. */
export async function deadlocksIn({ url, connected }: OpenEngine): Promise<number> {
  if (connected.adapter.engine === 'postgres') {
    const text = 'select deadlocks from pg_stat_database where datname = current_database()'
    return Number((await connected.sql(text))[0]?.deadlocks)
  }
  const [row] = await connected.sql('show engine innodb status')
  const [, last] = /LATEST DETECTED DEADLOCK([\s\S]*?)\nTRANSACTIONS\n/.exec(String(row?.Status)) ?? []
  return last?.includes(new URL(url).pathname.slice(1)) ? 1 : 0
}
