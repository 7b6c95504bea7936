export const serverNames = ['postgres18', 'postgres15', 'mysql', 'mariadb'] as const

export type ServerName = (typeof serverNames)[number]

/** A database server that tests may use with administrator rights. Plain data, so that it can be handed to test workers. */
export type TestServer = {
  name: ServerName
  engine: 'postgres' | 'mysql'
  flavour: 'postgres' | 'mysql' | 'mariadb'
  url: string
  /** What the server logs, if this machine can read it. */
  logFile: string | null
  /** Its process, if it was started from binaries on this machine. */
  pid: number | null
}

export type RunningServer = TestServer & {
  /** Ends the server and removes its data. A server named by the environment is left alone. */
  stop(): Promise<void>
  /** Kills the server without a warning, and starts it again on its data. Only of servers that run from binaries. */
  crash?(): Promise<void>
}

export type ServerKind = Pick<TestServer, 'name' | 'engine' | 'flavour'>

export const serverKinds: Record<ServerName, ServerKind> = {
  postgres18: { name: 'postgres18', engine: 'postgres', flavour: 'postgres' },
  postgres15: { name: 'postgres15', engine: 'postgres', flavour: 'postgres' },
  mysql: { name: 'mysql', engine: 'mysql', flavour: 'mysql' },
  mariadb: { name: 'mariadb', engine: 'mysql', flavour: 'mariadb' },
}
